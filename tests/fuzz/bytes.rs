//! Decisions drawn from an input. Where it ends, every further decision is zero.

/// The rest of an input.
pub struct Bytes<'a> {
    left: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { left: data }
    }

    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// As many of the next `count` bytes as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.left.split_at(count.min(self.left.len()));
        self.left = left;
        taken
    }

    /// As many bytes as the next one says, if there are.
    pub fn chunk(&mut self) -> &'a [u8] {
        let count = self.u8();
        self.take(count.into())
    }

    fn number<const N: usize>(&mut self) -> [u8; N] {
        let mut number = [0; N];
        let taken = self.take(N);
        number[..taken.len()].copy_from_slice(taken);
        number
    }

    pub fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.number())
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.number())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.number())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.number())
    }

    pub fn bool(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// A number below `limit`, which is at most 256.
    pub fn below(&mut self, limit: usize) -> usize {
        assert!((1..=256).contains(&limit), "one byte decides");
        usize::from(self.u8()) % limit
    }

    /// One of the choices.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// True once in `times` on average over random inputs.
    pub fn rarely(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }
}

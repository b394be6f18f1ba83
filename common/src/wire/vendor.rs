//! Commands 0xF0-0xFF: left to vendors, with no meaning in the protocol.
//!
//! We own none of them: the target answers error 1 and repeats the arguments, as vblade does; the initiator
//! never sends one.

/// A vendor message: its command code and whatever follows the AoE header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorRepr<'a> {
    /// The command code, 0xF0-0xFF.
    pub code: u8,
    /// Bytes from offset 24 on, padding included: only the vendor knows how long they are.
    pub argument: &'a [u8],
}

impl<'a> VendorRepr<'a> {
    /// Reads a vendor message; `None` when the code is outside the vendor range.
    pub fn parse(code: u8, body: &'a [u8]) -> Option<Self> {
        (code >= 0xf0).then_some(Self { code, argument: body })
    }

    /// Bytes that `emit` writes.
    pub fn wire_len(&self) -> usize {
        self.argument.len()
    }

    /// Writes the argument and returns the bytes behind it.
    ///
    /// # Panics
    /// When `out` is shorter than `wire_len()`.
    pub fn emit<'b>(&self, out: &'b mut [u8]) -> &'b mut [u8] {
        let (argument, rest) = out.split_at_mut(self.argument.len());
        argument.copy_from_slice(self.argument);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_vendor_range() {
        assert_eq!(VendorRepr::parse(0xef, &[1]), None);
        let repr = VendorRepr::parse(0xf7, &[1, 2]).unwrap();
        let mut out = [0xa5; 3];
        assert_eq!(repr.emit(&mut out), [0xa5]);
        assert_eq!(out, [1, 2, 0xa5]);
    }
}

//! Netlink messages: headers, attributes, acknowledgements. All numbers are in the byte order of the host.

use nix::errno::Errno;

/// Bytes of the netlink header.
const HEADER: usize = 16;

/// Bytes of the generic netlink header behind it.
const GENERIC_HEADER: usize = 4;

/// Bytes of an attribute's header.
const ATTRIBUTE_HEADER: usize = 4;

/// Messages and attributes start at multiples of this.
const ALIGNMENT: usize = 4;

/// In an acknowledgement: the kernel's text about an error.
const ERROR_TEXT: u16 = 1;

/// A generic netlink request under construction.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request for a command of a family, to be acknowledged.
    pub(super) fn new(family: u16, command: u8, version: u8, sequence: u32) -> Self {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = vec![0; 4];
        bytes.extend(family.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([command, version, 0, 0]);
        Self { bytes }
    }

    /// Requests have no such attribute; answers do.
    #[cfg(test)]
    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.attribute(kind, |bytes| bytes.push(value));
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, |bytes| bytes.extend(value.to_ne_bytes()));
    }

    pub(super) fn u64(&mut self, kind: u16, value: u64) {
        self.attribute(kind, |bytes| bytes.extend(value.to_ne_bytes()));
    }

    /// A text, ended by a zero byte as the kernel keeps it.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |bytes| {
            bytes.extend(value.as_bytes());
            bytes.push(0);
        });
    }

    /// An attribute that consists of those that `fill` adds.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.open(kind | libc::NLA_F_NESTED as u16);
        fill(self);
        self.close(start);
    }

    /// The whole message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("requests are short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.open(kind);
        fill(&mut self.bytes);
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        start
    }

    /// The length in the header leaves out the padding behind the attribute.
    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).expect("attributes of a request are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// One message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    payload: &'a [u8],
}

/// An error the kernel answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    /// What the kernel says about it; often empty.
    pub(super) text: String,
}

impl<'a> Message<'a> {
    /// The attributes behind the generic netlink header; empty when there is no whole one.
    pub(super) fn attributes(&self) -> Attributes<'a> {
        attributes(self.payload.get(GENERIC_HEADER..).unwrap_or_default())
    }

    /// Reads an acknowledgement; none when the message is another one or is cut short.
    pub(super) fn acknowledgement(&self) -> Option<Result<(), Refusal>> {
        if i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        let (error, request) = self.payload.split_first_chunk()?;
        let errno = match i32::from_ne_bytes(*error) {
            0 => return Some(Ok(())),
            error => Errno::from_raw(error.checked_neg().unwrap_or(libc::EPROTO)),
        };
        let text = self.error_text(request).unwrap_or_default();
        Some(Err(Refusal { errno, text }))
    }

    /// The text is in attributes behind the request, of which the kernel sends back the header, or all.
    fn error_text(&self, request: &[u8]) -> Option<String> {
        let flags = i32::from(self.flags);
        if flags & libc::NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let sent_back = if flags & libc::NLM_F_CAPPED == 0 {
            let length = u32::from_ne_bytes(*request.first_chunk()?);
            usize::try_from(length).ok()?.checked_next_multiple_of(ALIGNMENT)?
        } else {
            HEADER
        };
        let (_, text) = attributes(request.get(sent_back..)?).find(|&(kind, _)| kind == ERROR_TEXT)?;
        let text = text.split(|&byte| byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

/// The messages in what was received. Ends at the first that is not whole.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let length = usize::try_from(u32::from_ne_bytes(header[..4].try_into().ok()?)).ok()?;
        let payload = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes(header[8..12].try_into().ok()?),
            payload,
        })
    })
}

/// Attributes one after the other, as kind and value. Ends at the first that is not whole.
#[derive(Clone, Debug)]
pub(super) struct Attributes<'a> {
    bytes: &'a [u8],
}

/// The attributes in these bytes, such as the value of a nested one.
pub(super) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { bytes }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let &[length_low, length_high, kind_low, kind_high] = self.bytes.first_chunk::<ATTRIBUTE_HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([length_low, length_high]));
        let value = self.bytes.get(ATTRIBUTE_HEADER..length)?;
        self.bytes = self.bytes.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([kind_low, kind_high]) & libc::NLA_TYPE_MASK as u16;
        Some((kind, value))
    }
}

/// The value of an attribute that is a number; none when it has another size.
pub(super) fn number<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An acknowledgement as the kernel makes it.
    fn acknowledgement(flags: i32, error: i32, sent_back: &[u8], text: Option<&str>) -> Vec<u8> {
        let mut request = Request { bytes: vec![0; 4] };
        request.bytes.extend((libc::NLMSG_ERROR as u16).to_ne_bytes());
        request.bytes.extend((flags as u16).to_ne_bytes());
        request.bytes.extend(7u32.to_ne_bytes());
        request.bytes.extend([0; 4]);
        request.bytes.extend(error.to_ne_bytes());
        request.bytes.extend(sent_back);
        if let Some(text) = text {
            request.text(ERROR_TEXT, text);
        }
        request.finish()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_request_has_the_layout_the_kernel_expects() {
        let mut request = Request::new(0x1c, 1, 1, 0x0a0b_0c0d);
        request.u32(1, 5);
        request.text(10, "e0.1");
        request.nested(7, |sockets| sockets.nested(1, |item| item.u32(1, 9)));
        let expected: &[&[u8]] = &[
            // Length 56, family 0x1c, REQUEST | ACK, sequence, port.
            &[56, 0, 0, 0, 0x1c, 0, 5, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0, 0, 0, 0],
            // Command, version, reserved.
            &[1, 1, 0, 0],
            &[8, 0, 1, 0, 5, 0, 0, 0],
            // Length 9, padded to 12.
            &[9, 0, 10, 0, b'e', b'0', b'.', b'1', 0, 0, 0, 0],
            // The nested bit, twice.
            &[16, 0, 7, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 9, 0, 0, 0],
        ];
        assert_eq!(request.finish(), expected.concat());
    }

    #[test]
    fn what_is_built_is_read_back() {
        let mut request = Request::new(31, 3, 1, 99);
        request.u64(2, u64::MAX - 1);
        request.nested(7, |list| {
            list.u32(1, 4);
            list.u32(1, 5);
        });
        let mut bytes = request.finish();
        bytes.extend(Request::new(32, 0, 0, 100).finish());

        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind, found[0].sequence, found[1].kind, found[1].sequence), (31, 99, 32, 100));
        let mut attributes_found = found[0].attributes();
        let (kind, value) = attributes_found.next().unwrap();
        assert_eq!((kind, number(value).map(u64::from_ne_bytes)), (2, Some(u64::MAX - 1)));
        let (kind, value) = attributes_found.next().unwrap();
        assert_eq!(kind, 7, "the nested bit is no part of the kind");
        let inner: Vec<_> = attributes(value).map(|(_, value)| number(value).map(u32::from_ne_bytes)).collect();
        assert_eq!(inner, [Some(4), Some(5)]);
        assert_eq!(attributes_found.next(), None);
        assert_eq!(found[1].attributes().next(), None);
    }

    #[test]
    fn an_error_is_read_with_its_text() {
        let request = Request::new(1, 1, 1, 7).finish();
        let read = |bytes: &[u8]| messages(bytes).next().unwrap().acknowledgement();
        let refused = |text: &str| Some(Err(Refusal { errno: Errno::EINVAL, text: text.into() }));

        assert_eq!(read(&acknowledgement(libc::NLM_F_CAPPED, 0, &request[..HEADER], None)), Some(Ok(())));
        let both = libc::NLM_F_CAPPED | libc::NLM_F_ACK_TLVS;
        let capped = acknowledgement(both, -libc::EINVAL, &request[..HEADER], Some("no"));
        assert_eq!(read(&capped), refused("no"));
        let whole = acknowledgement(libc::NLM_F_ACK_TLVS, -libc::EINVAL, &request, Some("not so"));
        assert_eq!(read(&whole), refused("not so"));
        assert_eq!(read(&acknowledgement(0, -libc::EINVAL, &request, None)), refused(""));
        assert_eq!(read(&request), None, "not an acknowledgement");
    }

    #[test]
    fn an_acknowledgement_cut_short_is_none_and_an_absurd_error_is_an_error() {
        let cut = acknowledgement(0, -libc::EINVAL, &[], None);
        let mut message = messages(&cut).next().unwrap();
        message.payload = &message.payload[..3];
        assert_eq!(message.acknowledgement(), None);
        let absurd = acknowledgement(0, i32::MIN, &[], None);
        assert!(matches!(messages(&absurd).next().unwrap().acknowledgement(), Some(Err(_))));
    }

    proptest! {
        #[test]
        fn garbage_is_read_to_its_end(bytes in prop::collection::vec(prop_oneof![0..20u8, any::<u8>()], 0..200)) {
            let mut read = 0;
            for message in messages(&bytes) {
                read += 1;
                let _ = message.acknowledgement();
                prop_assert!(message.attributes().count() <= bytes.len() / ATTRIBUTE_HEADER);
            }
            prop_assert!(read <= bytes.len() / HEADER);
        }

        #[test]
        fn any_cut_of_an_acknowledgement_is_read(cut in 0..100usize, flags: u16, error: i32) {
            let whole = acknowledgement(flags.into(), error, &Request::new(1, 1, 1, 7).finish(), Some("some text"));
            let mut bytes = whole[..cut.min(whole.len())].to_vec();
            if let Some(length) = bytes.first_chunk_mut::<4>() {
                *length = (cut.min(whole.len()) as u32).to_ne_bytes();
            }
            for message in messages(&bytes) {
                let _ = message.acknowledgement();
            }
        }
    }
}

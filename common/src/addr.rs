//! `e0.1`: the shelf and slot that name a device on the wire.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A shelf and a slot ("major" and "minor" on the wire). All-ones in either part means "any".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The shelf; 0xFFFF is any shelf.
    pub shelf: u16,
    /// The slot; 0xFF is any slot.
    pub slot: u8,
}

impl Address {
    /// Any shelf.
    pub const ANY_SHELF: u16 = 0xffff;
    /// Any slot.
    pub const ANY_SLOT: u8 = 0xff;
    /// Every device.
    pub const ANY: Self = Self { shelf: Self::ANY_SHELF, slot: Self::ANY_SLOT };

    /// An address from its parts.
    pub const fn new(shelf: u16, slot: u8) -> Self {
        Self { shelf, slot }
    }

    /// Whether this names more than one device.
    pub const fn is_wildcard(self) -> bool {
        self.shelf == Self::ANY_SHELF || self.slot == Self::ANY_SLOT
    }

    /// Whether a request sent to this address reaches the device `own`. Shelf and slot match
    /// independently, each on equality or all-ones (r11 as vblade does it).
    pub const fn reaches(self, own: Self) -> bool {
        (self.shelf == own.shelf || self.shelf == Self::ANY_SHELF)
            && (self.slot == own.slot || self.slot == Self::ANY_SLOT)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.shelf, self.slot) {
            (Self::ANY_SHELF, Self::ANY_SLOT) => "e*.*".to_owned(),
            (Self::ANY_SHELF, slot) => format!("e*.{slot}"),
            (shelf, Self::ANY_SLOT) => format!("e{shelf}.*"),
            (shelf, slot) => format!("e{shelf}.{slot}"),
        };
        f.pad(&text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no device address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form eSHELF.SLOT.
    #[error("\"{0}\" is no AoE device: write eSHELF.SLOT, for example e0.1")]
    Form(String),
    /// The shelf is out of range.
    #[error("shelf {0} is out of range: shelves go from 0 to 65534 (65535 means any)")]
    Shelf(String),
    /// The slot is out of range.
    #[error("slot {0} is out of range: slots go from 0 to 254 (255 means any)")]
    Slot(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.to_owned());
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (shelf, slot) = text.strip_prefix('e').and_then(|rest| rest.split_once('.')).ok_or_else(form)?;
        let shelf = match shelf {
            "*" => Self::ANY_SHELF,
            number if is_number(number) => parse_shelf(number)?,
            _ => return Err(form()),
        };
        let slot = match slot {
            "*" => Self::ANY_SLOT,
            number if is_number(number) => parse_slot(number)?,
            _ => return Err(form()),
        };
        Ok(Self { shelf, slot })
    }
}

/// A shelf number that a device can have.
pub fn parse_shelf(text: &str) -> Result<u16, AddressError> {
    match text.parse() {
        Ok(Address::ANY_SHELF) | Err(_) => Err(AddressError::Shelf(text.to_owned())),
        Ok(shelf) => Ok(shelf),
    }
}

/// A slot number that a device can have.
pub fn parse_slot(text: &str) -> Result<u8, AddressError> {
    match text.parse() {
        Ok(Address::ANY_SLOT) | Err(_) => Err(AddressError::Slot(text.to_owned())),
        Ok(slot) => Ok(slot),
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        for text in ["e0.1", "e65534.254", "e*.3", "e7.*", "e*.*"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_texts() {
        for text in ["", "e", "0.1", "e0", "e.1", "e0.", "e0.1.2", "e-1.0", "e+1.0", "e0x1.0", "E0.1", "e0.1 "] {
            assert_eq!(text.parse::<Address>(), Err(AddressError::Form(text.to_owned())), "{text}");
        }
        assert_eq!("e65535.0".parse::<Address>(), Err(AddressError::Shelf("65535".into())));
        assert_eq!("e0.255".parse::<Address>(), Err(AddressError::Slot("255".into())));
        assert_eq!("e99999.0".parse::<Address>(), Err(AddressError::Shelf("99999".into())));
    }

    #[test]
    fn parts_match_independently() {
        let own = Address::new(1, 2);
        for (to, reached) in
            [("e1.2", true), ("e*.2", true), ("e1.*", true), ("e*.*", true), ("e*.3", false), ("e2.*", false)]
        {
            assert_eq!(to.parse::<Address>().unwrap().reaches(own), reached, "{to}");
        }
    }
}

//! Who may edit over the wire what stations can set: the operator's policy, which no frame changes.
//!
//! Reading is always allowed. An edit by anybody else is refused with AoE error 2 (bad argument), as one to a wildcard
//! address is: of the errors of r11 it is the one that no client waits out or tries again by force. Error 4 would say that
//! the string is set already, and error 6 that somebody else holds the reservation, and both invite to force it.

use aoe_common::wire::MacAddr;

/// Who may make one kind of edit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Editors {
    /// Every station that is heard.
    #[default]
    All,
    /// Nobody.
    None,
    /// These stations, if they are heard.
    These(Vec<MacAddr>),
}

impl Editors {
    /// Whether this station is one.
    pub fn include(&self, station: MacAddr) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::These(stations) => stations.contains(&station),
        }
    }
}

/// Who may edit what of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EditPolicy {
    /// The config string.
    pub config: Editors,
    /// The MAC mask list.
    pub mask: Editors,
    /// The reservation.
    pub reservation: Editors,
}

impl EditPolicy {
    /// The same for everything.
    pub fn same(editors: &Editors) -> Self {
        Self { config: editors.clone(), mask: editors.clone(), reservation: editors.clone() }
    }
}

//! Our programs with everybody else's.

mod aoetools;
mod nbd;
mod tshark;
mod vblade;

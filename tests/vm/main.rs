//! Our programs with unmodified Linux kernels, in virtual machines.

mod aoe_ko;
mod nbd_attach;

//! Our programs with unmodified Linux kernels, in virtual machines.

mod aoe_ko;
mod ipxe;
mod nbd_attach;
mod power_cut;

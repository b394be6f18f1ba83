//! Our programs with unmodified Linux kernels, in virtual machines.

mod aoe_ko;
mod disk_errors;
mod drbd;
mod gfs2;
mod glusterfs;
mod guides;
mod ipxe;
mod mixed;
mod nbd_attach;
mod ocfs2;
mod packages;
mod power_cut;
mod stacked;
mod writer;

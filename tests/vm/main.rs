//! Our programs with unmodified Linux kernels, in virtual machines.

mod nbd_attach;

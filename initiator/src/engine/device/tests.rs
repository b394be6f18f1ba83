//! The device engine against scripted targets on a virtual network, in virtual time.

mod cache;
mod chaos;
mod death;
mod finding;
mod loss;
mod measuring;
mod ordering;
mod paths;
mod recovery;
mod requests;
mod window;
mod world;

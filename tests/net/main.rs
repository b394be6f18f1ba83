//! Our programs in network namespaces of their own.

mod bad_input;
mod lab;
mod main_job;

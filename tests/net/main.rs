//! Our programs in network namespaces of their own.

mod bad_input;
mod hostile_client;
mod hostile_target;
mod lab;
mod main_job;

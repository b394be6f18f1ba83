//! Our programs in network namespaces of their own.

mod bad_cable;
mod bad_input;
mod bench;
mod cfg;
mod check;
mod config;
mod confinement;
mod control;
mod disk_faults;
mod fencing;
mod flood;
mod growth;
mod hostile_client;
mod hostile_target;
mod interfaces;
mod kills;
mod lab;
mod main_job;
mod metrics;
mod ping;
mod restart;
mod service_manager;
mod station_record;
mod watch;

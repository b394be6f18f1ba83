//! Stations that send what no client should.

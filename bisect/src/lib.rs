//! The commit of QEMU's from which on a guest runs differently.
//!
//! [`bisection`] is the whole of it. Git does the searching: [`search`] drives `git bisect` in a repository of its own that borrows the user's objects, so that
//! nothing of the user's is touched. [`repository`] is the user's, [`builds`] makes an executable of a tree and keeps it in the
//! [`cache`], [`trial`] runs the guest on it and compares that with the good build's stored run. [`hunks`] puts those of the
//! found commit first that are likely to have made what differs; [`found`] is the result.

pub mod bisection;
pub mod builds;
pub mod cache;
pub mod found;
pub mod git;
pub mod hunks;
pub mod repository;
pub mod search;
pub mod trial;

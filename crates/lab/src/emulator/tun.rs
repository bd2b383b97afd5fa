//! TUN devices in other network namespaces.
//!
//! The one file of the laboratory with unsafe code: `TUNSETIFF` has no safe wrapper in the
//! libraries at hand.

#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

use anyhow::{Context, Result};
use nix::libc;

use crate::namespace::inside;

nix::ioctl_write_ptr_bad!(tun_set_interface, libc::TUNSETIFF, libc::ifreq);

/// Makes a TUN device `interface` in the namespace called `namespace` and opens it, non-blocking.
/// The device is there as long as the file is open.
pub(super) fn open(namespace: &str, interface: &str) -> Result<File> {
    inside(namespace, || open_here(interface))
        .with_context(|| format!("cannot make the TUN device {interface} in {namespace}"))
}

fn open_here(interface: &str) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain data for which all-zero bytes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel wants a terminated name.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("both flags fit");
    // SAFETY: the descriptor is an open /dev/net/tun, and the kernel only reads and fills the
    // `ifreq`, which lives across the call.
    unsafe { tun_set_interface(file.as_raw_fd(), &raw const request) }.context("TUNSETIFF")?;
    Ok(file)
}

//! Which machine this is, as far as files and sockets are concerned.

use std::fs;

/// A name that two processes share only if they are on one machine and see the same files: the id of the kernel's boot and
/// that of the mount namespace. Empty where the system does not tell, which is like no other's.
#[must_use]
pub fn name_of_this() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let files = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    match (boot.trim(), files.to_str()) {
        ("", _) | (_, None | Some("")) => String::new(),
        (boot, Some(files)) => format!("{boot} {files}"),
    }
}

//! Atomic replacement of a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Replaces `path` by `bytes`: written beside it, flushed to the disk, renamed over it. On an error
/// (a full disk) the old file is untouched. `private` makes it readable by its owner only.
pub fn write_atomically(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.new"));
    let result = write_new(&beside, bytes, private).and_then(|()| fs::rename(&beside, path));
    if result.is_err() {
        let _ = fs::remove_file(&beside);
        return result;
    }
    // The rename itself survives a power cut only if the directory is flushed too.
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], private: bool) -> io::Result<()> {
    // A left-over of a crash might have other access rights.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if private { 0o600 } else { 0o644 });
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

//! Reads the files that people name: what is not a regular file could keep its reader waiting for ever, and one
//! that is too long could fill the memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The longest integrations file. A thousand integrations take about 200 KiB.
pub const LONGEST_INTEGRATIONS: u64 = 64 * 1024 * 1024;
/// The longest file with a room URL; the URL itself may have half of it.
pub const LONGEST_ROOM_URL: u64 = 4 * 1024;
/// The longest file with a key or a token.
pub const LONGEST_SECRET: u64 = 4 * 1024;
/// The longest configuration. Every key with all that is said of it takes about 10 KiB.
pub const LONGEST_CONFIGURATION: u64 = 1024 * 1024;
/// The longest file with authorities. All that a system trusts take about 250 KiB.
pub const LONGEST_AUTHORITIES: u64 = 4 * 1024 * 1024;

/// The text of a regular file, or of what a symlink leads to, of at most `longest` bytes.
///
/// # Errors
/// It can't be read, is too long, is not a regular file or is not UTF-8.
pub fn read_regular(path: &Path, longest: u64) -> io::Result<String> {
    // Opening a FIFO already waits for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    read_bounded(File::open(path)?, longest)
}

/// The text of a file of at most `longest` bytes.
///
/// # Errors
/// It can't be read, is too long or is not UTF-8.
pub fn read_text(path: &Path, longest: u64) -> io::Result<String> {
    read_bounded(File::open(path)?, longest)
}

/// The bytes of a file of at most `longest` bytes, in `into`, which is not moved if it has room for one more than that.
///
/// # Errors
/// It can't be read or is too long.
pub fn read_bytes(path: &Path, longest: u64, into: &mut Vec<u8>) -> io::Result<()> {
    bounded(File::open(path)?, longest, |from| from.read_to_end(into)).map(|_| ())
}

/// The text of what gives at most `longest` bytes.
///
/// # Errors
/// It can't be read, is too long or is not UTF-8.
pub fn read_bounded(from: impl Read, longest: u64) -> io::Result<String> {
    let mut text = String::new();
    bounded(from, longest, |from| from.read_to_string(&mut text)).map(|_| text)
}

fn bounded<R: Read>(
    from: R,
    longest: u64,
    read: impl FnOnce(&mut io::Take<R>) -> io::Result<usize>,
) -> io::Result<usize> {
    // Judged by what was read: a file's length may change meanwhile. One byte more tells that it is too long; the
    // cut may be in the middle of a character.
    let mut bounded = from.take(longest + 1);
    let read = read(&mut bounded);
    if bounded.limit() == 0 {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {}", size(longest)),
        ));
    }
    read
}

fn size(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    if bytes.is_multiple_of(MIB) { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes / 1024) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_limit_and_not_beyond() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let read = |bytes: &[u8], longest| {
            std::fs::write(&file, bytes).unwrap();
            read_regular(&file, longest).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[b'a'; 4096], LONGEST_ROOM_URL), Ok("a".repeat(4096)));
        assert_eq!(read(&[b'a'; 4097], LONGEST_ROOM_URL), Err("it is longer than 4 KiB".to_owned()));
        let cut_within_a_character = "ü".repeat(2049);
        let cut = read(cut_within_a_character.as_bytes(), LONGEST_ROOM_URL);
        assert_eq!(cut, Err("it is longer than 4 KiB".to_owned()));
        assert!(read(b"\xff", LONGEST_ROOM_URL).unwrap_err().contains("UTF-8"));
        assert_eq!(size(LONGEST_INTEGRATIONS), "64 MiB");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_a_regular_file_is_refused_without_waiting_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, link, text) = (dir.path().join("fifo"), dir.path().join("link"), dir.path().join("text"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for path in [&fifo, &link, Path::new("/dev/zero"), dir.path()].map(Path::to_path_buf) {
            let error = read_regular(&path, LONGEST_ROOM_URL).unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file", "{}", path.display());
        }
        // A mounted secret is a symlink.
        std::fs::write(&text, "text").unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&text, &link).unwrap();
        assert_eq!(read_regular(&link, LONGEST_ROOM_URL).unwrap(), "text");
    }
}

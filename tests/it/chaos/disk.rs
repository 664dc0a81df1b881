//! A disk that can be filled: a file system in memory. Root alone may mount one, and `scripts/chaos` sees to it that
//! nobody else sees it and that it goes with the run.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Disk {
    place: PathBuf,
}

impl Disk {
    /// At this folder, so many MiB large. `None` where nothing may be mounted.
    pub fn mount(place: &Path, mib: u32) -> Option<Self> {
        std::env::var_os("CHAOS_MAY_MOUNT")?;
        let options = format!("size={mib}m,mode=1777");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "chaos"]).arg(place);
        assert!(mount.status().expect("mount is there").success(), "no file system at {}", place.display());
        Some(Self { place: place.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.place.join("ballast")
    }

    /// Leaves not a byte.
    pub fn fill(&self) {
        let mut ballast = File::create(self.ballast()).expect("a file");
        for size in [1 << 20, 4 << 10] {
            let bytes = vec![0; size];
            while ballast.write_all(&bytes).is_ok() {}
        }
    }

    /// As it was.
    pub fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("it is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until it ends.
        let _ = Command::new("umount").arg("--lazy").arg(&self.place).status();
    }
}

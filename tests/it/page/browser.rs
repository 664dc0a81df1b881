//! Headless Chromium: a page's DOM after its scripts ran, and a picture of it.

use std::path::{Path, PathBuf};
use std::process::Command;

pub const WIDTH: u32 = 1280;
pub const HEIGHT: u32 = 800;

/// Chromium with a profile that is deleted with the test's folder.
pub struct Browser {
    program: PathBuf,
    folder: PathBuf,
}

/// What can be said of a PNG without drawing it.
#[derive(Debug)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub bytes: usize,
}

impl Browser {
    /// The first of the names it goes by that is there.
    pub fn find(folder: &Path) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
        let program = names
            .iter()
            .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
            .find(|program| program.is_file())?;
        Some(Self { program, folder: folder.to_owned() })
    }

    /// The page as it stands once its scripts have run.
    pub fn dom(&self, page: &str) -> String {
        self.run(&["--dump-dom"], page)
    }

    /// Takes a picture of the page.
    pub fn picture(&self, page: &str) -> Picture {
        let file = self.folder.join("page.png");
        self.run(&[&format!("--screenshot={}", file.display())], page);
        let png = std::fs::read(&file).expect("a picture");
        std::fs::remove_file(&file).expect("no longer needed");
        assert_eq!(png.get(..8), Some(&b"\x89PNG\r\n\x1a\n"[..]), "not a PNG");
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
        Picture { width: number(16), height: number(20), bytes: png.len() }
    }

    fn run(&self, options: &[&str], page: &str) -> String {
        // No virtual time: the page's event stream never ends, and virtual time would wait for it.
        let output = Command::new("timeout")
            .args(["--signal=KILL", "60"])
            .arg(&self.program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--hide-scrollbars", "--timeout=4000"])
            .arg(format!("--window-size={WIDTH},{HEIGHT}"))
            .arg(format!("--user-data-dir={}", self.folder.join("browser").display()))
            .args(options)
            .arg(page)
            .output()
            .expect("Chromium can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "Chromium ended with {}: {said}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

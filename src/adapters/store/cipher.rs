//! Encrypts room URLs, which hold a token, before they reach a store's file or server.
//!
//! XChaCha20-Poly1305 with a random nonce for each text; the integration's id is bound to it, so that one
//! integration's secret can't be put in another's row. The key is a file of 64 hex digits, apart from the
//! store, so that a copy of the database alone gives no token away. Neither key nor plaintext is ever shown.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::ids::IntegrationId;
use crate::files::{self, LONGEST_SECRET};
use crate::ports::StoreError;

/// Bytes of a key.
const KEY_LEN: usize = 32;
/// Bytes of the nonce that stands before each ciphertext.
const NONCE_LEN: usize = 24;

/// The key in use, and where it came from (named in errors).
pub struct Cipher {
    aead: XChaCha20Poly1305,
    /// Where the key came from, for people.
    source: String,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Cipher {
    /// Reads the key from a file that must be there: 64 hex digits, surrounding white space allowed.
    ///
    /// # Errors
    /// `Refused` with a sentence that names the file: missing, unreadable, or not a key.
    pub fn from_key_file(path: &Path) -> Result<Self, StoreError> {
        // No copy of it is left where it grew.
        let mut text = Zeroizing::new(Vec::with_capacity(LONGEST_SECRET as usize + 1));
        files::read_bytes(path, LONGEST_SECRET, &mut text).map_err(|error| {
            let shown = path.display();
            StoreError::Refused(match error.kind() {
                ErrorKind::NotFound => format!(
                    "key file {shown} is not there: put back the one the room URLs were encrypted with, \
                     or set secrets.key_file"
                ),
                _ => format!("key file {shown} can't be read: {error}"),
            })
        })?;
        Self::from_hex(&text, format!("key file {}", path.display()))
    }

    /// A key of 64 hex digits, surrounding white space allowed; `source` names where it came from.
    ///
    /// # Errors
    /// `Refused` with a sentence that names the source: not a key.
    pub fn from_hex(text: &[u8], source: String) -> Result<Self, StoreError> {
        let mut key = Zeroizing::new([0u8; KEY_LEN]);
        hex::decode_to_slice(text.trim_ascii(), key.as_mut_slice()).map_err(|_| {
            StoreError::Refused(format!("{source} is not a key: it must hold 64 hex digits and nothing else"))
        })?;
        Ok(Self { aead: XChaCha20Poly1305::new(&Key::from(*key)), source })
    }

    /// Like [`Self::from_key_file`], but makes the file, readable by its owner alone, if it is not there.
    /// A file that is there is never touched; of two processes that make it at once, both get the same key.
    ///
    /// # Errors
    /// As above, or the file can't be made.
    pub fn load_or_create(path: &Path) -> Result<Self, StoreError> {
        if let Ok(false) = path.try_exists() {
            create(path).map_err(|error| {
                StoreError::Refused(format!("key file {} can't be made: {error}", path.display()))
            })?;
        }
        Self::from_key_file(path)
    }

    /// Where the key came from, for people.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Encrypts `text` for one integration: nonce, then ciphertext.
    pub(super) fn seal(&self, id: &IntegrationId, text: &SecretString) -> Result<Vec<u8>, StoreError> {
        let nonce = XNonce::try_generate()
            .map_err(|_| StoreError::Unavailable("the system gives no random numbers; try again".into()))?;
        let payload = Payload { msg: text.expose_secret().as_bytes(), aad: id.as_str().as_bytes() };
        let sealed = self
            .aead
            .encrypt(&nonce, payload)
            .map_err(|_| StoreError::Refused(format!("integration {id}: its room URL can't be encrypted")))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Decrypts what [`Self::seal`] made for the same integration with the same key.
    pub(super) fn unseal(&self, id: &IntegrationId, sealed: &[u8]) -> Result<SecretString, StoreError> {
        let refused = || {
            StoreError::Refused(format!(
                "integration {id}: its room URL can't be decrypted with {}: put back the key it was \
                 encrypted with, or remove the integration and apply it again",
                self.source
            ))
        };
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
        let payload = Payload { msg: text, aad: id.as_str().as_bytes() };
        let plain = self.aead.decrypt(&XNonce::from(*nonce), payload).map_err(|_| refused())?;
        let plain = String::from_utf8(plain).map_err(|_| refused())?;
        Ok(SecretString::from(plain))
    }
}

/// Makes a key file whole or not at all: written aside, then linked to its name, which fails if the name is
/// taken, and then the other file counts.
fn create(path: &Path) -> std::io::Result<()> {
    let mut key = Zeroizing::new([0u8; KEY_LEN]);
    key.copy_from_slice(&Key::try_generate().map_err(|_| std::io::Error::other("no random numbers"))?);
    let text = Zeroizing::new(format!("{}\n", hex::encode(key.as_slice())));
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.tmp", uuid::Uuid::now_v7().simple()));
    let aside = PathBuf::from(aside);
    let made = write_private(&aside, text.as_bytes()).and_then(|()| match fs::hard_link(&aside, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    });
    let _ = fs::remove_file(&aside);
    made?;
    // The name must survive a power cut as surely as the database does.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = private(OpenOptions::new().write(true).create_new(true)).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes what is opened readable and writable by its owner alone, where the system knows such a thing.
pub(super) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://acme.hipchat.com/v2/room/42/notification?auth_token=s3cr3t";

    fn id(text: &str) -> IntegrationId {
        IntegrationId::new(text)
    }

    #[test]
    fn what_is_sealed_is_unsealed_with_the_same_key_and_id_only() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (dir.path().join("a.key"), dir.path().join("b.key"));
        let cipher = Cipher::load_or_create(&ours).unwrap();
        let sealed = cipher.seal(&id("a"), &SecretString::from(URL)).unwrap();
        assert!(!sealed.windows(6).any(|w| w == b"s3cr3t"));
        assert_ne!(sealed, cipher.seal(&id("a"), &SecretString::from(URL)).unwrap(), "a nonce each");

        let again = Cipher::from_key_file(&ours).unwrap();
        assert_eq!(again.unseal(&id("a"), &sealed).unwrap().expose_secret(), URL);
        assert!(again.unseal(&id("b"), &sealed).is_err(), "bound to its integration");
        let error = Cipher::load_or_create(&theirs).unwrap().unseal(&id("a"), &sealed).unwrap_err();
        assert!(error.to_string().contains("integration a:"), "{error}");
        assert!(error.to_string().contains("b.key"), "{error}");
        for cut in [0, 10, 24, sealed.len() - 1] {
            assert!(again.unseal(&id("a"), &sealed[..cut]).is_err());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_new_key_file_is_private_and_never_made_again() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.key");
        Cipher::load_or_create(&path).unwrap();
        let first = fs::read(&path).unwrap();
        assert_eq!(first.len(), 65);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        Cipher::load_or_create(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn processes_that_make_the_key_at_once_share_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.key");
        let sealed: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let cipher = Cipher::load_or_create(&path).unwrap();
                        cipher.seal(&id("a"), &SecretString::from(URL)).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let cipher = Cipher::from_key_file(&path).unwrap();
        assert!(sealed.iter().all(|s| cipher.unseal(&id("a"), s).is_ok()));
    }

    #[test]
    fn a_file_that_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.key");
        let missing = Cipher::from_key_file(&path).unwrap_err().to_string();
        assert!(missing.contains("store.key is not there"), "{missing}");
        for bad in ["", "abcd", &"g".repeat(64), &"0".repeat(63), &"0".repeat(66), "\u{0}"] {
            fs::write(&path, bad).unwrap();
            let error = Cipher::load_or_create(&path).unwrap_err().to_string();
            assert!(error.contains("64 hex digits"), "{bad:?}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), *bad, "left as it was");
        }
        fs::write(&path, " ".repeat(4 * 1024 + 1)).unwrap();
        let long = Cipher::from_key_file(&path).unwrap_err().to_string();
        assert!(long.ends_with("store.key can't be read: it is longer than 4 KiB"), "{long}");
        let nowhere = Cipher::load_or_create(&dir.path().join("no/such.key")).unwrap_err().to_string();
        assert!(nowhere.contains("no/such.key can't be made"), "{nowhere}");
    }
}

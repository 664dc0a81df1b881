//! An integration as stores keep it, what a new definition changes of it, and what may not be done. Pure.

use std::collections::{BTreeMap, HashSet};

use secrecy::{ExposeSecret, SecretString};

use super::cipher::Cipher;
use crate::domain::ids::{IntegrationId, RoomKey, TokenKey};
use crate::domain::integration::IntegrationState;
use crate::ports::{Definition, Each, ManagedBy, StoreError, Stored};

/// What `explain` adds to `integration-paused`.
pub const PAUSED: &str = "the integration was paused while this waited";
/// What `explain` adds to `integration-removed`.
pub const REMOVED: &str = "the integration was removed while this waited";
/// The same, where the file lets one go.
pub const LEFT_OUT: &str = "it is no longer in the integrations file";

/// The word for whoever manages an integration.
pub fn managed_text(by: ManagedBy) -> &'static str {
    match by {
        ManagedBy::File => "file",
        ManagedBy::Operator => "operator",
    }
}

/// Whom a stored word means.
pub fn managed_by(word: &str) -> ManagedBy {
    if word == "file" { ManagedBy::File } else { ManagedBy::Operator }
}

/// An integration's row, its room URL still encrypted.
pub struct Kept {
    pub id: IntegrationId,
    pub json: String,
    pub room_url: Vec<u8>,
    pub room: RoomKey,
    pub token: TokenKey,
    pub paused: bool,
    pub suspended: Option<String>,
    pub managed_by: ManagedBy,
}

/// What a new definition changes of an integration that is there.
pub struct Difference {
    /// The room URL, or what was made of it.
    pub url: bool,
    /// The room itself.
    pub moved: bool,
    /// It is paused and was not.
    pub paused: bool,
    /// The file manages it from now on.
    pub taken_over: bool,
    /// A pause or a suspension ends, or the room is another: what fails is news to it.
    pub heard_again: bool,
}

impl Kept {
    /// What `new`, given by `by`, changes; `None` if nothing. `key` is what [`check_key`] says: where the key is
    /// right, a room URL that can't be read is damaged, and the new one mends it.
    pub fn difference(
        &self,
        new: &Definition,
        by: ManagedBy,
        cipher: &Cipher,
        key: &Result<(), StoreError>,
    ) -> Result<Option<Difference>, StoreError> {
        if by == ManagedBy::Operator && self.managed_by == ManagedBy::File {
            return Err(managed_by_file(&new.id));
        }
        let old_url = match (cipher.unseal(&self.id, &self.room_url), key) {
            (Ok(url), _) => Some(url),
            (Err(_), Ok(())) => None,
            (Err(error), Err(_)) => return Err(error),
        };
        let is_same = |old: &SecretString| old.expose_secret() == new.room_url.expose_secret();
        let moved = self.room != new.room;
        let url = moved || !old_url.as_ref().is_some_and(is_same) || self.token != new.token;
        if !url && self.json == new.json && self.paused == new.paused && self.managed_by == by {
            return Ok(None);
        }
        let was_suspended = self.suspended.is_some() || old_url.is_none();
        Ok(Some(Difference {
            url,
            moved,
            paused: new.paused && !self.paused,
            taken_over: self.managed_by != by,
            heard_again: moved || ((self.paused || (was_suspended && url)) && !new.paused),
        }))
    }

    /// Whether resuming changes anything.
    pub fn can_resume(&self) -> Result<bool, StoreError> {
        if self.managed_by == ManagedBy::File && self.paused && self.suspended.is_none() {
            let id = &self.id;
            return Err(refused(format!("integration {id} is paused in integrations.file: change it there")));
        }
        Ok(self.paused || self.suspended.is_some())
    }

    /// Itself, if it is an operator's to change.
    pub fn own(self) -> Result<Self, StoreError> {
        if self.managed_by == ManagedBy::File { Err(managed_by_file(&self.id)) } else { Ok(self) }
    }

    fn into_stored(self, cipher: &Cipher, pending: u64) -> Stored {
        let (room_url, unreadable) = match cipher.unseal(&self.id, &self.room_url) {
            Ok(url) => (url, None),
            Err(error) => (SecretString::default(), Some(error.to_string())),
        };
        let state = match (self.paused, unreadable.clone().or(self.suspended)) {
            (true, _) => IntegrationState::Paused,
            (false, Some(reason)) => IntegrationState::Suspended { reason },
            (false, None) => IntegrationState::Active,
        };
        Stored {
            definition: Definition {
                id: self.id,
                json: self.json,
                room_url,
                room: self.room,
                token: self.token,
                paused: self.paused,
            },
            managed_by: self.managed_by,
            state,
            pending,
            unreadable,
        }
    }
}

/// All as they are handed out, in order, with how much waits for each.
pub fn listed(
    kept: Vec<Kept>,
    mut pending: BTreeMap<String, i64>,
    cipher: &Cipher,
) -> Result<Vec<Stored>, StoreError> {
    check_key(&kept, cipher)?;
    let stored = |kept: Kept| {
        let waiting = pending.remove(kept.id.as_str()).unwrap_or(0);
        kept.into_stored(cipher, waiting.unsigned_abs())
    };
    Ok(kept.into_iter().map(stored).collect())
}

/// Hands integrations out one after another.
pub struct HandingOut<'a> {
    cipher: &'a Cipher,
    each: Each,
    /// What [`check_key`] says of those so far, if there are some.
    key: Option<Result<(), StoreError>>,
}

impl<'a> HandingOut<'a> {
    /// Nothing yet.
    pub fn new(cipher: &'a Cipher, each: Each) -> Self {
        Self { cipher, each, key: None }
    }

    /// The next one.
    pub fn next(&mut self, kept: Kept) {
        if !matches!(self.key, Some(Ok(()))) {
            let key = check_key(std::slice::from_ref(&kept), self.cipher);
            if key.is_ok() || self.key.is_none() {
                self.key = Some(key);
            }
        }
        (self.each)(kept.into_stored(self.cipher, 0));
    }

    /// Refuses what [`check_key`] does.
    pub fn end(self) -> Result<(), StoreError> {
        self.key.unwrap_or(Ok(()))
    }
}

/// Refuses if there are integrations and no room URL of theirs can be decrypted: then it is the key that is
/// wrong, and not a row that is damaged.
pub fn check_key(all: &[Kept], cipher: &Cipher) -> Result<(), StoreError> {
    let mut refusal = Ok(());
    for kept in all {
        match cipher.unseal(&kept.id, &kept.room_url) {
            Ok(_) => return Ok(()),
            Err(error) => refusal = refusal.and(Err(error)),
        }
    }
    refusal
}

/// The ids of the definitions, if each names one integration.
pub fn ids_once(definitions: &[Definition]) -> Result<HashSet<&IntegrationId>, StoreError> {
    let mut ids = HashSet::new();
    match definitions.iter().find(|d| !ids.insert(&d.id)) {
        None => Ok(ids),
        Some(twice) => {
            Err(refused(format!("integration {} is defined twice: an id names one integration", twice.id)))
        }
    }
}

/// An operator means one that is not there.
pub fn unknown(id: &IntegrationId) -> StoreError {
    refused(format!("there is no integration {id}: `integrations list` shows those that are"))
}

fn managed_by_file(id: &IntegrationId) -> StoreError {
    refused(format!("integration {id} is managed by integrations.file: change it there"))
}

fn refused(sentence: String) -> StoreError {
    StoreError::Refused(sentence)
}

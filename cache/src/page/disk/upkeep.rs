//! The health of the folders: what their operations came to, and what time brings.

use std::io;

use super::error::Trouble;
use super::folder::{Folder, occupy, probe};
use super::health::{Event, FolderHealth};
use super::open::chain;
use super::{DiskPages, recover};

impl DiskPages {
    /// Tells a folder's health of an event.
    pub(super) fn note(&self, number: usize, event: Event) {
        let Some(folder) = self.folders.get(number) else {
            return;
        };
        let changed = folder.health.lock().on(event, self.now());
        match changed {
            None => {}
            Some(FolderHealth::Healthy) => {
                *folder.last_error.lock() = None;
                tracing::info!(folder = %folder.path.display(), "a cache folder is healthy again");
            }
            Some(health) => {
                let error = folder.last_error.lock().clone().unwrap_or_default();
                tracing::warn!(folder = %folder.path.display(), health = health.as_str(), error, "a cache folder fails");
            }
        }
        if changed == Some(FolderHealth::Out) {
            self.forget_folder(number);
        }
    }

    /// Tells a folder of an operation that failed.
    pub(super) fn failed(&self, number: usize, doing: &str, error: &io::Error) {
        let Some(folder) = self.folders.get(number) else {
            return;
        };
        match Trouble::of(error) {
            Trouble::Full => self.disk_is_full(folder, error),
            Trouble::Starved => count(folder, doing, error),
            Trouble::TooLarge => tracing::debug!(%error, "the file system has no files as large as one to be cached"),
            // One file that somebody removed is no sign of a broken disk.
            Trouble::Missing if !folder.is_gone(self.fs()) => count(folder, doing, error),
            Trouble::Missing => {
                count(folder, doing, error);
                self.note(number, Event::Gone);
            }
            Trouble::Failing => {
                count(folder, doing, error);
                self.note(number, Event::Failed);
            }
        }
    }

    /// See [`DiskPages::maintain`].
    pub(super) fn keep_up(&self) {
        for (number, folder) in self.folders.iter().enumerate() {
            if folder.state() != FolderHealth::Out && folder.is_gone(self.fs()) {
                count(folder, "find", &io::ErrorKind::NotFound.into());
                self.note(number, Event::Gone);
            }
            self.note(number, Event::Tick);
            let due = folder.health.lock().probe_due(self.now());
            match folder.state() {
                FolderHealth::Unstable if due => self.probe_unstable(number, folder),
                FolderHealth::Out if due => self.take_back(number, folder),
                _ => {}
            }
        }
    }

    fn probe_unstable(&self, number: usize, folder: &Folder) {
        match probe(&folder.path, self.fs()) {
            Ok(()) => self.note(number, Event::Good),
            Err(error) => self.failed(number, "write a trial file", &error),
        }
    }

    /// Takes a folder back that was out, with what it holds by now. Not while an operation from before is going on: it
    /// might hang in the disk, and change files when it wakes.
    fn take_back(&self, number: usize, folder: &Folder) {
        if folder.is_busy() || !folder.may_return(self.fs()) {
            return;
        }
        // The old lock may be on a file that is gone; and another process may have the folder by now.
        folder.unlock();
        let found = occupy(&folder.path, self.page_size, self.fs());
        let found = found.map_err(|error| chain(&error)).and_then(|identity| {
            let found = recover::scan(&folder.path, self.page_size, self.fs());
            found.map(|found| (identity, found)).map_err(|error| error.to_string())
        });
        match found {
            Err(error) => *folder.last_error.lock() = Some(error),
            Ok((identity, found)) => {
                *folder.identity.lock() = Some(identity);
                self.forget_folder(number);
                // While it is out, nobody puts a file that is just being taken in.
                self.adopt(number, found);
                self.set_pins_of(number);
                // What it has was found under no quota.
                self.rescope_folder(number);
                self.note(number, Event::Returned);
            }
        }
    }

    /// No more than is held is kept for a while. One line in the log for all that is not written in that time.
    fn disk_is_full(&self, folder: &Folder, error: &io::Error) {
        metrics::counter!("jetbridge_cache_folder_full_total", "folder" => folder.label.clone()).increment(1);
        let is_news = folder.account.lock().disk_is_full(self.now());
        if is_news {
            *folder.last_error.lock() = Some(error.to_string());
            tracing::warn!(
                folder = %folder.path.display(),
                %error,
                "the disk is full before the cache folder is; no more than it holds now is kept"
            );
        }
    }
}

fn count(folder: &Folder, doing: &str, error: &io::Error) {
    metrics::counter!("jetbridge_cache_folder_errors_total", "folder" => folder.label.clone()).increment(1);
    tracing::debug!(folder = %folder.path.display(), doing, %error, "an operation of a cache folder failed");
    *folder.last_error.lock() = Some(format!("cannot {doing}: {error}"));
}

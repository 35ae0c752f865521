//! Where the output goes: stdout, or a file that appears under its name only when it is complete.
//!
//! States of a file: being written beside its place under a name of its own; then either renamed into place by
//! [`Sink::commit`], or removed when the sink is dropped. What is no regular file (a device, a pipe) is written directly.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cli::error::CliError;

/// Enough that a row a line does not cost a system call a line.
const BUFFER_BYTES: usize = 256 << 10;

/// A destination of bytes.
pub(in crate::cli) struct Sink {
    writer: BufWriter<Box<dyn Write + Send>>,
    partial: Option<Partial>,
    state: SinkState,
}

/// What became of the writes of a sink that others own by now.
#[derive(Clone, Debug)]
pub(in crate::cli) struct SinkState {
    target: Arc<str>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

impl Sink {
    /// Opens the file, or stdout.
    pub(in crate::cli) fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else {
            return Ok(Self::new(Box::new(io::stdout()), None, "to stdout"));
        };
        let target = path.display().to_string();
        let failed = |error| CliError::output(&target, error);
        if path.exists() && !path.is_file() {
            let file = File::options().write(true).open(path).map_err(failed)?;
            return Ok(Self::new(Box::new(file), None, &target));
        }
        let partial = Partial::beside(path);
        let file = File::create(&partial.written).map_err(failed)?;
        Ok(Self::new(Box::new(file), Some(partial), &target))
    }

    fn new(inner: Box<dyn Write + Send>, partial: Option<Partial>, target: &str) -> Self {
        let state = SinkState {
            target: target.into(),
            failure: Arc::default(),
        };
        Self {
            writer: BufWriter::with_capacity(BUFFER_BYTES, inner),
            partial,
            state,
        }
    }

    /// A handle that outlives the sink.
    pub(in crate::cli) fn state(&self) -> SinkState {
        self.state.clone()
    }

    /// Writes what is buffered and gives the file its name.
    pub(in crate::cli) fn commit(mut self) -> Result<(), CliError> {
        let flushed = self.flush();
        let named = flushed.and_then(|()| self.partial.take().map_or(Ok(()), Partial::commit));
        named.map_err(|error| CliError::output(&self.state.target, error))
    }

    fn noted<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            self.state
                .failure
                .lock()
                .get_or_insert_with(|| io::Error::new(error.kind(), error.to_string()));
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes);
        self.noted(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.writer.flush();
        self.noted(flushed)
    }
}

impl SinkState {
    /// The I/O error that is behind `error`, if one was seen.
    pub(in crate::cli) fn explain(&self, error: CliError) -> CliError {
        match self.failure.lock().take() {
            Some(failure) => CliError::output(&self.target, failure),
            None => error,
        }
    }
}

/// A file under a name of its own.
#[derive(Debug)]
struct Partial {
    written: PathBuf,
    wanted: PathBuf,
    kept: bool,
}

impl Partial {
    fn beside(wanted: &Path) -> Self {
        let mut name = std::ffi::OsString::from(".");
        name.push(wanted.file_name().unwrap_or_default());
        name.push(format!(".{}.part", std::process::id()));
        Self {
            written: wanted.with_file_name(name),
            wanted: wanted.to_owned(),
            kept: false,
        }
    }

    fn commit(mut self) -> io::Result<()> {
        std::fs::rename(&self.written, &self.wanted)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // It may be gone already; there is nobody left to tell.
            let _ = std::fs::remove_file(&self.written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_file_appears_only_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        let mut sink = Sink::open(Some(&path)).unwrap();
        sink.write_all(b"a\n").unwrap();
        assert!(!path.exists());
        sink.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a\n");
        assert_eq!(names(folder.path()), ["x.csv"]);
    }

    #[test]
    fn a_file_that_is_not_finished_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        std::fs::write(&path, b"old").unwrap();
        let mut sink = Sink::open(Some(&path)).unwrap();
        sink.write_all(b"new").unwrap();
        drop(sink);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["x.csv"]);
    }

    #[test]
    fn devices_are_written_directly() {
        let mut sink = Sink::open(Some(Path::new("/dev/null"))).unwrap();
        sink.write_all(b"x").unwrap();
        sink.commit().unwrap();
        assert!(!Path::new("/dev/null").is_file());
    }

    #[test]
    fn the_real_cause_of_a_failed_write_is_told() {
        let mut sink = Sink::open(Some(Path::new("/dev/full"))).unwrap();
        let state = sink.state();
        assert!(sink.write_all(b"x").and_then(|()| sink.flush()).is_err());
        let error = state.explain(CliError::Usage("what a writer made of it".to_owned()));
        assert!(
            matches!(&error, CliError::Output { target, .. } if target == "/dev/full"),
            "{error:?}"
        );
    }
}

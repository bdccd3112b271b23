//! What is kept between runs, in a folder of its own under the user's cache: executables by the tree and the way that they
//! were made of, good builds' runs, and each repository's source and objects.
//!
//! An entry is a folder that is made under another name and then has its own at once. Its file `used` is locked while
//! somebody uses it, and its time is when somebody did so last. Where all entries are larger than the limit those
//! go that were not used for longest; never one in use.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use qemu::digest::Digest;
use tempfile::TempDir;

const USED: &str = "used";

/// What counts for the limit: executables, good builds' runs, firmware, and each repository's source and objects.
const KINDS: [&str; 4] = ["builds", "runs", "firmware", "repositories"];

/// What is left of a run that was killed goes when it is so old.
const LEFT: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the cache `{path}` can't be written: {why}")]
    Unwritable { path: PathBuf, why: io::Error },
    #[error("interrupted")]
    Interrupted,
}

#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    /// How large all entries may be together, bytes.
    limit: u64,
}

/// An entry in use.
#[derive(Debug)]
pub struct Entry {
    pub folder: PathBuf,
    _used: Flock<File>,
}

/// A name that follows from `parts`.
#[must_use]
pub fn key<S: AsRef<[u8]>>(parts: &[S]) -> String {
    let mut digest = Digest::default();
    for part in parts {
        digest.add(&(part.as_ref().len() as u64).to_le_bytes());
        digest.add(part.as_ref());
    }
    digest.hex()[..32].to_owned()
}

impl Cache {
    /// # Errors
    /// Where it can't be written.
    pub fn open(folder: PathBuf, limit: u64) -> Result<Self, Error> {
        let cache = Cache { folder, limit };
        for kind in KINDS.iter().chain(&["new", "logs"]) {
            cache.folder(kind)?;
        }
        // Not each folder that can be made can be written.
        let probe = tempfile::tempfile_in(cache.folder.join("new"));
        probe.map_err(|why| cache.unwritable(why))?;
        cache.tidy();
        Ok(cache)
    }

    /// A folder of it, which is made.
    ///
    /// # Errors
    /// Where it can't be.
    pub fn folder(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).map_err(|why| self.unwritable(why))?;
        Ok(path)
    }

    fn unwritable(&self, why: io::Error) -> Error {
        Error::Unwritable { path: self.folder.clone(), why }
    }

    /// The entry of this kind and name, where it is there.
    #[must_use]
    pub fn get(&self, kind: &str, name: &str) -> Option<Entry> {
        let folder = self.folder.join(kind).join(name);
        let used = File::options().write(true).open(folder.join(USED)).ok()?;
        let used = Flock::lock(used, FlockArg::LockShared).ok()?;
        let _ = used.set_modified(SystemTime::now());
        // It may have gone before it was locked.
        folder.join(USED).is_file().then_some(Entry { folder, _used: used })
    }

    /// Makes an entry: `make` fills the folder that it gets.
    ///
    /// # Errors
    /// Where that fails, or the folder can't be made.
    pub fn put<E: From<Error>>(
        &self,
        kind: &str,
        name: &str,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<Entry, E> {
        let unwritable = |why| self.unwritable(why);
        let new = TempDir::new_in(self.folder("new")?).map_err(unwritable)?;
        let used = File::create(new.path().join(USED)).map_err(unwritable)?;
        let used = Flock::lock(used, FlockArg::LockShared).map_err(|(_, why)| unwritable(why.into()))?;
        make(new.path())?;
        let folder = self.folder(kind)?.join(name);
        match fs::rename(new.path(), &folder) {
            Ok(()) => drop(new.keep()),
            // Somebody else has made it meanwhile.
            Err(_) if folder.join(USED).is_file() => {
                if let Some(entry) = self.get(kind, name) {
                    return Ok(entry);
                }
            }
            Err(why) => return Err(unwritable(why).into()),
        }
        self.shrink();
        Ok(Entry { folder, _used: used })
    }

    /// An entry that is filled little by little, and is made where it is not there.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn hold(&self, kind: &str, name: &str) -> Result<Entry, Error> {
        loop {
            let folder = self.folder(kind)?.join(name);
            let made = fs::create_dir_all(&folder)
                .and_then(|()| File::options().create(true).append(true).open(folder.join(USED)));
            drop(made.map_err(|why| self.unwritable(why))?);
            // Somebody may have thrown it away meanwhile.
            if let Some(entry) = self.get(kind, name) {
                return Ok(entry);
            }
        }
    }

    /// Throws an entry away that is of no use.
    pub fn remove(&self, entry: Entry) {
        let folder = entry.folder.clone();
        drop(entry);
        self.drop_unused(&folder);
    }

    /// Removes an entry that nobody uses; gives back whether it did.
    fn drop_unused(&self, folder: &Path) -> bool {
        let Ok(used) = File::options().write(true).open(folder.join(USED)) else { return false };
        let Ok(_used) = Flock::lock(used, FlockArg::LockExclusiveNonblock) else { return false };
        let Ok(gone) = TempDir::new_in(self.folder.join("new")) else { return false };
        fs::rename(folder, gone.path().join("gone")).is_ok()
    }

    /// Takes away what was not used for longest, as far as all is larger than it may be.
    fn shrink(&self) {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = KINDS
            .iter()
            .flat_map(|kind| fs::read_dir(self.folder.join(kind)).into_iter().flatten().flatten())
            .filter_map(|entry| {
                let used = fs::metadata(entry.path().join(USED)).ok()?.modified().ok()?;
                Some((used, size(&entry.path()), entry.path()))
            })
            .collect();
        entries.sort();
        let mut all: u64 = entries.iter().map(|(_, size, _)| size).sum();
        for (_, size, folder) in entries {
            if all <= self.limit {
                return;
            }
            if self.drop_unused(&folder) {
                all -= size;
            }
        }
    }

    /// Removes what killed runs have left.
    fn tidy(&self) {
        for entry in fs::read_dir(self.folder.join("new")).into_iter().flatten().flatten() {
            let old = entry.metadata().and_then(|data| data.modified()).ok();
            let old = old.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > LEFT);
            let path = entry.path();
            let used = File::open(path.join(USED));
            let free = used.map_or(true, |used| Flock::lock(used, FlockArg::LockExclusiveNonblock).is_ok());
            if old && free {
                let _ = fs::remove_dir_all(path);
            }
        }
    }

    /// Waits until nobody else has the file `path` locked; `waits` is called where somebody has.
    ///
    /// # Errors
    /// Where it can't be locked, or the user wants an end.
    pub fn lock(
        &self,
        path: &Path,
        interrupts: &AtomicU32,
        waits: impl FnOnce(),
    ) -> Result<Flock<File>, Error> {
        let mut file = File::create(path).map_err(|why| self.unwritable(why))?;
        let mut waits = Some(waits);
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
                Err((_, why)) => return Err(self.unwritable(why.into())),
            };
            if let Some(waits) = waits.take() {
                waits();
            }
            if interrupts.load(Ordering::Relaxed) > 0 {
                return Err(Error::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// How much a folder's files take, bytes.
fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |file: fs::DirEntry| match file.metadata() {
        Ok(data) if data.is_dir() => size(&file.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    files.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &Cache, name: &str, age: u64) -> Entry {
        let entry = cache
            .put::<Error>("builds", name, |folder| {
                fs::write(folder.join("qemu"), vec![0; 1000]).unwrap();
                Ok(())
            })
            .unwrap();
        let used = File::options().append(true).open(entry.folder.join(USED)).unwrap();
        used.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        entry
    }

    fn names(cache: &Cache) -> Vec<String> {
        let entries = fs::read_dir(cache.folder.join("builds")).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_oldest_goes_first_and_none_in_use() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(place.path().join("cache"), 3500).unwrap();
        let held = put(&cache, "held", 400);
        drop(put(&cache, "old", 300));
        drop(put(&cache, "new", 100));
        assert_eq!(names(&cache), ["held", "new", "old"]);
        drop(put(&cache, "newest", 0));
        assert_eq!(names(&cache), ["held", "new", "newest"]);
        // Used again, it is no longer the oldest.
        drop(held);
        drop(cache.get("builds", "held").unwrap());
        drop(put(&cache, "one more", 0));
        assert_eq!(names(&cache), ["held", "newest", "one more"]);
        assert_eq!(fs::read_dir(place.path().join("cache/new")).unwrap().count(), 0);
    }

    #[test]
    fn what_two_make_at_once_is_there_once() {
        let place = tempfile::tempdir().unwrap();
        let cache = Cache::open(place.path().to_owned(), 1 << 20).unwrap();
        let outer = cache.put::<Error>("runs", "one", |folder| {
            drop(cache.put::<Error>("runs", "one", |folder| {
                fs::write(folder.join("by"), "first").unwrap();
                Ok(())
            })?);
            fs::write(folder.join("by"), "second").unwrap();
            Ok(())
        });
        assert_eq!(fs::read_to_string(outer.unwrap().folder.join("by")).unwrap(), "first");
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_said() {
        let error = Cache::open(PathBuf::from("/proc/no/cache"), 1).unwrap_err().to_string();
        assert!(error.starts_with("the cache `/proc/no/cache` can't be written: "), "{error}");
    }

    #[test]
    fn parts_are_told_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
    }
}

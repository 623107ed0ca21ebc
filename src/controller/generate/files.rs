//! The files of a project, and how they get to the disk: whole, and never over what somebody changed.

use super::GenerateError;
use crate::slm::pack::FilePart;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

/// Names the path in an error of the disk.
pub(super) fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> GenerateError + '_ {
    move |error| GenerateError::Disk { path: path.display().to_string(), error }
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A file of a packed SLM, which is read when it is written, and checked.
    Model {
        /// The file.
        from: PathBuf,
        /// What its manifest says of it.
        part: FilePart,
    },
}

/// A file of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectFile {
    /// Its path in the project: plain names with `/` between them.
    pub path: String,
    pub(super) content: Content,
    /// Whether it is a program.
    pub(super) runs: bool,
}

impl ProjectFile {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Model { part, .. } => part.bytes,
        }
    }

    fn read(&self) -> Result<Vec<u8>, GenerateError> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::Model { from, part } => {
                let bytes = fs::read(from).map_err(disk(from))?;
                part.verify(&bytes, &from.display().to_string())?;
                Ok(bytes)
            }
        }
    }

    /// Where it goes below a folder. Nothing leads out of that: neither `..` nor a link.
    fn below(&self, folder: &Path) -> Result<PathBuf, GenerateError> {
        let relative = Path::new(&self.path);
        let outside = || GenerateError::Path { path: self.path.clone() };
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if self.path.is_empty() || self.path.contains(['\\', ':', '\0']) || !relative.components().all(plain) {
            return Err(outside());
        }
        let mut at = folder.to_owned();
        for part in relative.components() {
            at.push(part);
            if fs::symlink_metadata(&at).is_ok_and(|found| found.file_type().is_symlink()) {
                return Err(GenerateError::Link { path: at.display().to_string() });
            }
        }
        Ok(at)
    }

    fn state(&self, folder: &Path) -> Result<State, GenerateError> {
        let path = self.below(folder)?;
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::New),
            Err(error) => return Err(disk(&path)(error)),
        };
        if !found.is_file() {
            return Err(disk(&path)(ErrorKind::IsADirectory.into()));
        }
        let same = found.len() == self.bytes() && fs::read(&path).map_err(disk(&path))? == self.read()?;
        Ok(if same { State::Same } else { State::Differs })
    }

    fn write(&self, folder: &Path) -> Result<(), GenerateError> {
        let path = self.below(folder)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(disk(parent))?;
        }
        let bytes = self.read()?;
        let mut file = fs::File::create(&path).map_err(disk(&path))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(disk(&path))?;
        #[cfg(unix)]
        if self.runs {
            use std::os::unix::fs::PermissionsExt;
            file.set_permissions(fs::Permissions::from_mode(0o755)).map_err(disk(&path))?;
        }
        Ok(())
    }
}

/// What is in a file's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    New,
    /// The same.
    Same,
    /// Something else: somebody changed it, or it is from other values.
    Differs,
}

/// What is in the place of each file.
pub(super) fn states(files: &[ProjectFile], folder: &Path) -> Result<Vec<State>, GenerateError> {
    if fs::metadata(folder).is_ok_and(|found| !found.is_dir()) {
        return Err(disk(folder)(ErrorKind::NotADirectory.into()));
    }
    files.iter().map(|file| file.state(folder)).collect()
}

/// Writes the files that are not there yet, and with `force` those that differ. All are written beside the folder first;
/// only when that is done they are moved to their places, each whole, and a new folder in one move.
pub(super) fn write(files: &[ProjectFile], folder: &Path, force: bool) -> Result<Vec<State>, GenerateError> {
    let states = states(files, folder)?;
    let each = || files.iter().zip(&states);
    let differing: Vec<&str> =
        each().filter(|(_, state)| **state == State::Differs).map(|(file, _)| file.path.as_str()).collect();
    if !force && !differing.is_empty() {
        return Err(GenerateError::Differs { folder: folder.display().to_string(), files: differing.join("\n  ") });
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(disk(parent))?;
    let beside = tempfile::Builder::new().prefix(".generate-").tempdir_in(parent).map_err(disk(parent))?;
    // A temporary folder is its owner's alone; the one in it is as any other.
    let made = beside.path().join("project");
    fs::create_dir(&made).map_err(disk(&made))?;
    let wanted: Vec<&ProjectFile> = each().filter(|(_, state)| **state != State::Same).map(|(file, _)| file).collect();
    wanted.iter().try_for_each(|file| file.write(&made))?;
    if !folder.exists() {
        fs::rename(&made, folder).map_err(disk(folder))?;
        return Ok(states);
    }
    for file in wanted {
        let to = file.below(folder)?;
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(disk(parent))?;
        }
        fs::rename(made.join(&file.path), &to).map_err(disk(&to))?;
    }
    Ok(states)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> ProjectFile {
        ProjectFile { path: path.into(), content: Content::Bytes(text.into()), runs: path.ends_with(".sh") }
    }

    fn files_of(folder: &Path) -> Vec<String> {
        let mut found: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        found.sort();
        found
    }

    #[test]
    fn a_new_folder_comes_whole_and_a_second_run_changes_nothing() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("deep/project");
        let files = [file("a.txt", "a"), file("src/b.sh", "b")];
        assert_eq!(write(&files, &folder, false).expect("written"), [State::New, State::New]);
        assert_eq!(fs::read_to_string(folder.join("src/b.sh")).expect("b"), "b");
        assert_eq!(write(&files, &folder, false).expect("unchanged"), [State::Same, State::Same]);
        assert_eq!(files_of(&place.path().join("deep")), ["project"], "nothing is left beside it");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |name: &str| fs::metadata(folder.join(name)).expect("a file").permissions().mode() & 0o777;
            assert_eq!(mode("src/b.sh"), 0o755);
            assert_eq!(mode("a.txt") & 0o111, 0);
        }
    }

    #[test]
    fn what_differs_is_kept_unless_forced_and_what_is_foreign_always() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("project");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("a.txt"), "mine").expect("a file");
        fs::write(folder.join("other.txt"), "other").expect("a file");
        let files = [file("a.txt", "a"), file("b.txt", "b")];
        let error = write(&files, &folder, false).expect_err("it differs").to_string();
        assert!(
            error.starts_with("generate-differs: ") && error.contains("a.txt") && !error.contains("b.txt"),
            "{error}"
        );
        assert_eq!(files_of(&folder), ["a.txt", "other.txt"], "nothing was written");
        assert_eq!(write(&files, &folder, true).expect("forced"), [State::Differs, State::New]);
        assert_eq!(files_of(&folder), ["a.txt", "b.txt", "other.txt"]);
        assert_eq!(fs::read_to_string(folder.join("a.txt")).expect("a"), "a");
        assert_eq!(files_of(place.path()), ["project"]);
    }

    #[test]
    fn a_run_that_breaks_leaves_nothing() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("project");
        let part = FilePart::of("weights.bin", b"good");
        let from = place.path().join("weights.bin");
        fs::write(&from, "evil").expect("a file");
        let model =
            ProjectFile { path: "models/weights.bin".into(), content: Content::Model { from, part }, runs: false };
        let error = write(&[file("a.txt", "a"), model.clone()], &folder, false).expect_err("a wrong hash").to_string();
        assert!(error.contains("SHA-256"), "{error}");
        assert_eq!(files_of(place.path()), ["weights.bin"]);
        fs::create_dir(&folder).expect("a folder");
        assert!(write(&[file("a.txt", "a"), model], &folder, false).is_err());
        assert!(files_of(&folder).is_empty());
    }

    #[test]
    fn nothing_is_written_outside() {
        let place = tempfile::tempdir().expect("a folder");
        let folder = place.path().join("project");
        for path in ["../x", "/x", "a/../../x", "", ".", "a/./../..", "C:x", "a\\..\\x", "a\0"] {
            let error = write(&[file(path, "x")], &folder, true).expect_err(path).to_string();
            assert!(error.starts_with("generate-path: "), "{path:?}: {error}");
        }
        assert!(files_of(place.path()).is_empty());
        #[cfg(unix)]
        {
            let elsewhere = tempfile::tempdir().expect("a folder");
            fs::create_dir(&folder).expect("a folder");
            std::os::unix::fs::symlink(elsewhere.path(), folder.join("src")).expect("a link");
            std::os::unix::fs::symlink(elsewhere.path().join("x"), folder.join("b.txt")).expect("a link");
            for path in ["src/a.txt", "b.txt"] {
                let error = write(&[file(path, "x")], &folder, true).expect_err(path).to_string();
                assert!(error.starts_with("generate-link: "), "{path:?}: {error}");
            }
            assert!(files_of(elsewhere.path()).is_empty());
        }
        fs::write(place.path().join("file"), "").expect("a file");
        assert!(write(&[file("a", "x")], &place.path().join("file"), true).is_err());
    }
}

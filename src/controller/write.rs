//! The spec of what was chosen.

use super::{PlanError, plain};
use crate::hub::write_atomically;
use crate::spec::Spec;
use crate::task::Task;
use crate::vote::{LabelMap, Rule};
use std::collections::BTreeMap;
use std::path::Path;

/// The spec of a task and its SLMs, each with its map of labels where it needs one, as TOML; `remarks` stand above it. It
/// is read back before it is given.
pub fn text(
    task: &Task,
    slms: Vec<(String, Option<LabelMap>)>,
    rule: Rule,
    remarks: &[String],
) -> Result<String, PlanError> {
    let ids = slms.iter().map(|(id, _)| id.clone()).collect();
    let label_maps: BTreeMap<_, _> = slms.into_iter().filter_map(|(id, map)| Some((id, map?))).collect();
    let spec = Spec { rule, label_maps, ..Spec::plain(task.clone(), ids) };
    let body = toml::to_string(&spec).map_err(|e| PlanError::Labels(format!("the spec cannot be written: {e}")))?;
    let remarks: String = remarks.iter().map(|line| format!("# {}\n", plain(line, 300))).collect();
    let text = format!("{remarks}\n{body}");
    match Spec::from_toml(&text)? {
        read if read == spec => Ok(text),
        _ => Err(PlanError::Labels("the spec does not read back as it was written".to_owned())),
    }
}

/// Writes it; a file that is there is only replaced with `force`.
pub fn write(path: &Path, text: &str, force: bool) -> Result<(), PlanError> {
    if path.exists() && !force {
        return Err(PlanError::file(
            path,
            "it is there already and is not overwritten; give --force, or another --out",
        ));
    }
    Ok(write_atomically(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::labels::Labels;

    #[test]
    fn what_is_written_is_a_spec_and_remarks_cannot_add_to_it() {
        let task =
            Labels::named("app-reviews", &["bug".into(), "pr\"aise".into()]).expect("labels").task().expect("a task");
        let mut map = LabelMap::default();
        map.labels.insert("LABEL_0".into(), "bug".into());
        let remarks = ["chosen\nslms = [\"evil\"]".to_owned()];
        let written =
            text(&task, vec![("a--b".into(), Some(map.clone())), ("c".into(), None)], Rule::Majority, &remarks)
                .expect("a spec");
        let spec = Spec::from_toml(&written).expect("a spec");
        assert_eq!(spec.label_maps.get("a--b"), Some(&map));
        assert_eq!((spec.slms, spec.rule), (vec!["a--b".to_owned(), "c".to_owned()], Rule::Majority));
        assert_eq!(spec.task, task);
        assert!(text(&task, vec![("../up".into(), None)], Rule::Unanimous, &[]).is_err());
        let built_in = Task::built_in("sentiment").expect("built in");
        assert!(text(&built_in, vec![("a".into(), None)], Rule::Unanimous, &[]).is_ok());
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("annotator.toml");
        write(&path, "a", false).expect("written");
        assert!(write(&path, "b", false).is_err());
        write(&path, "b", true).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "b");
    }
}

//! The files of a guest: what has to be the same for a replay.

use std::path::{Path, PathBuf};

use super::{Arguments, effects, images};

/// Options whose value is text for the guest.
const TEXT: &[&str] = &["append", "name"];

impl Arguments {
    /// Every file that the command line names and the guest can read: with every file in a firmware folder that it
    /// names with `-L`, and with the files behind a qcow2 image; sorted, each once. A file is whatever a value, or
    /// the part behind a `=`, `:` or `,` in it, is the path of.
    #[must_use]
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for item in &self.items {
            let Some(value) = &item.value else { continue };
            if item.is(TEXT) || effects::is_output(item) {
                continue;
            }
            if item.name == "L" {
                let entries = std::fs::read_dir(folder.join(value)).into_iter().flatten().flatten();
                files.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
                continue;
            }
            let fields = item.fields();
            let words = [value.as_str()].into_iter().chain(fields.keys()).chain(fields.values());
            let parts = words.flat_map(|word| {
                let behind = word.split_once(':').map(|(_, behind)| behind);
                word.split(',').chain([word]).chain(behind)
            });
            files.extend(
                parts
                    .filter(|part| !part.is_empty())
                    .map(|part| folder.join(part))
                    .filter(|path| path.is_file()),
            );
        }
        for image in files.clone() {
            images::add_chain(&image, &mut files);
        }
        files.sort();
        files.dedup();
        files
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::arguments::tests::parse;

    #[test]
    fn files_are_found_wherever_an_option_names_them() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path();
        std::fs::create_dir(folder.join("fw")).unwrap();
        for name in ["k", "i", "d", "fw/bios.bin", "a,b", "j", "m", "out"] {
            std::fs::write(folder.join(name), name).unwrap();
        }
        let guest = parse(
            r#"-kernel k -initrd i,m -device loader,file=d,addr=0 -append k -L fw -fw_cfg name=opt/x,file=k -drive file=a,,b,if=virtio -blockdev {"driver":"file","filename":"j","node-name":"n"} -serial file:out -D out -chardev file,id=c,path=out"#,
        );
        let files: Vec<_> =
            guest.files(folder).iter().map(|path| path.strip_prefix(folder).unwrap().to_owned()).collect();
        assert_eq!(files, ["a,b", "d", "fw/bios.bin", "i", "j", "k", "m"].map(PathBuf::from));
    }
}

//! The temporary snapshots of a replay's drives, when their content is given: a replay that begins in the middle begins
//! with what the guest had written by then.
//!
//! QEMU makes the file of a `-drive ...,snapshot=on` itself, empty (block.c, `bdrv_append_temp_snapshot`). In its place
//! goes the same by hand: the image, opened for reading only, and a qcow2 file with it as backing file.

use super::drives::is_of_the_device;
use super::fields::{Fields, escaped};

/// The `-drive`s of `line` that get a temporary snapshot: where the values stand.
fn temporary(line: &[String]) -> impl Iterator<Item = usize> {
    let is_temporary = |at: &usize| {
        line.get(at.wrapping_sub(1)).is_some_and(|option| option == "-drive")
            && Fields::parse(&line[*at], "file").is_on("snapshot")
    };
    (1..line.len()).filter(is_temporary)
}

/// How many drives of a replay's command line get a temporary snapshot.
#[must_use]
pub fn count(line: &[String]) -> usize {
    temporary(line).count()
}

/// The command line with the file `overlays[n]`, a path, in place of the nth temporary snapshot.
#[must_use]
pub fn given(line: &[String], overlays: &[String]) -> Vec<String> {
    let mut given = line.to_vec();
    // From the last on, so that places stay what they are.
    for (n, (at, overlay)) in temporary(line).zip(overlays).enumerate().collect::<Vec<_>>().into_iter().rev()
    {
        let (mut drive, mut image) = Fields::parse(&line[at], "file").split(is_of_the_device);
        let base = format!("tandem-base-{n}");
        image.remove("snapshot");
        image.set("if", "none");
        image.set("id", &base);
        image.set("readonly", "on");
        drive.set("driver", "qcow2");
        drive.set("file.driver", "file");
        drive.set("file.filename", &escaped(overlay));
        drive.set("backing", &base);
        // As QEMU does for a file that nobody needs later.
        drive.set("cache.no-flush", "on");
        if let Some(discard) = image.get("discard").map(str::to_owned) {
            drive.set("discard", &discard);
        }
        given[at] = drive.to_string();
        given.splice(at - 1..at - 1, ["-drive".to_owned(), image.to_string()]);
    }
    given
}

#[cfg(test)]
mod tests {
    use super::{count, given};

    fn line(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn each_temporary_snapshot_becomes_a_file_that_is_given() {
        let replayed = line(
            "-m 64 -drive file=d.img,format=raw,if=none,id=tandem-image-0,snapshot=on \
             -drive if=virtio,driver=blkreplay,image=tandem-image-0 -pflash x \
             -drive file=vars.fd,if=pflash,snapshot=on",
        );
        assert_eq!(count(&replayed), 2);
        assert_eq!(
            given(&replayed, &["/a".to_owned(), "/b".to_owned()]).join(" "),
            "-m 64 -drive file=d.img,format=raw,if=none,id=tandem-base-0,readonly=on \
             -drive if=none,id=tandem-image-0,driver=qcow2,file.driver=file,file.filename=/a,backing=tandem-base-0,\
             cache.no-flush=on \
             -drive if=virtio,driver=blkreplay,image=tandem-image-0 -pflash x \
             -drive file=vars.fd,if=none,id=tandem-base-1,readonly=on \
             -drive if=pflash,driver=qcow2,file.driver=file,file.filename=/b,backing=tandem-base-1,cache.no-flush=on"
        );
    }

    #[test]
    fn a_line_without_one_stays() {
        let replayed = line("-drive file=c.iso,if=none,id=i,readonly=on -snapshot");
        assert_eq!((count(&replayed), given(&replayed, &[])), (0, replayed.clone()));
    }
}

//! The hunks of a commit, those first that are likely to have made what differs: which stage of the translation is at fault
//! is known from a report, and which of QEMU's files make it; and the guilty instruction's name is often in that of the
//! function that translates it.

use lockstep::explain::Stage;
use serde::Serialize;

/// A piece of a diff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hunk {
    pub file: String,
    /// The function that it is in, as git tells it; empty where it does not.
    pub function: String,
    /// Why it is likely; missing where nothing speaks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Its lines, with the line that begins with `@@`.
    pub text: String,
    #[serde(skip)]
    weight: u32,
}

/// The hunks of a diff, as git prints it.
#[must_use]
pub fn hunks(diff: &str) -> Vec<Hunk> {
    let mut hunks: Vec<Hunk> = Vec::new();
    let mut file = String::new();
    // How many lines of the old and the new file the hunk goes on for: a line that is taken out may look like a header.
    let mut left = (0u64, 0u64);
    for line in diff.lines() {
        if left == (0, 0) {
            if let Some(name) = line.strip_prefix("+++ b/").or_else(|| line.strip_prefix("--- a/")) {
                name.clone_into(&mut file);
            } else if let Some((lines, function)) = header(line) {
                left = lines;
                let text = format!("{line}\n");
                hunks.push(Hunk { file: file.clone(), function, because: None, text, weight: 0 });
            } else if line.starts_with("diff --git ") {
                file.clear();
            } else if line.starts_with('\\')
                && let Some(hunk) = hunks.last_mut()
            {
                hunk.text.push_str(&format!("{line}\n"));
            }
            continue;
        }
        let Some(hunk) = hunks.last_mut() else { continue };
        hunk.text.push_str(&format!("{line}\n"));
        match line.as_bytes().first() {
            Some(b'-') => left.0 = left.0.saturating_sub(1),
            Some(b'+') => left.1 = left.1.saturating_sub(1),
            Some(b'\\') => {}
            _ => left = (left.0.saturating_sub(1), left.1.saturating_sub(1)),
        }
    }
    hunks
}

/// `@@ -1,2 +3,4 @@ function`: how many lines it has of the old and the new file, and the function.
fn header(line: &str) -> Option<((u64, u64), String)> {
    let (ranges, function) = line.strip_prefix("@@ -")?.split_once(" @@")?;
    let (old, new) = ranges.split_once(" +")?;
    let count = |range: &str| range.split_once(',').map_or(Some(1), |(_, count)| count.parse().ok());
    Some(((count(old)?, count(new)?), function.trim().to_owned()))
}

/// Puts those first that fit what is known: the stage that differs and the guilty instruction's text.
pub fn order(hunks: &mut [Hunk], stage: Option<Stage>, instruction: Option<&str>) {
    let mnemonic = instruction.and_then(mnemonic);
    for hunk in hunks.iter_mut() {
        let mut because = Vec::new();
        (hunk.weight, hunk.because) = (0, None);
        if changed(&hunk.text).all(is_comment) {
            continue;
        }
        if let Some(part) = stage.and_then(|stage| part(stage, &hunk.file)) {
            because.push(format!("`{}` is of {part}", hunk.file));
            // Helpers are what a guest's instruction names, and so are nearer.
            hunk.weight += if hunk.file.starts_with("accel/") { 2 } else { 3 };
        } else if let (None, Some(part)) = (stage, any(&hunk.file)) {
            because.push(format!("`{}` is of {part}", hunk.file));
            hunk.weight += 1;
        }
        if let Some(mnemonic) = &mnemonic {
            if names(&hunk.function, mnemonic) {
                because.push(format!("its function is called after `{mnemonic}`"));
                hunk.weight += 2;
            } else if changed(&hunk.text).any(|line| names(line, mnemonic)) {
                because.push(format!("it names `{mnemonic}`"));
                hunk.weight += 1;
            }
        }
        hunk.because = (!because.is_empty()).then(|| because.join(", and "));
    }
    // Those that nothing tells apart stay as they are in the diff.
    hunks.sort_by_key(|hunk| std::cmp::Reverse(hunk.weight));
}

fn changed(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip(1).filter(|line| line.starts_with(['+', '-']))
}

/// Whether a changed line is only text, as far as its beginning shows.
fn is_comment(line: &str) -> bool {
    let text = line[1..].trim();
    text.is_empty() || ["/*", "* ", "*/", "//"].iter().any(|begin| text.starts_with(begin)) || text == "*"
}

/// The name of an instruction without its prefixes.
fn mnemonic(text: &str) -> Option<String> {
    const PREFIXES: [&str; 7] = ["lock", "rep", "repe", "repne", "repz", "repnz", "bnd"];
    let name = text.split_whitespace().find(|word| !PREFIXES.contains(word))?;
    let plain = name.len() > 1 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
    plain.then(|| name.to_ascii_lowercase())
}

/// Whether a word of C names an instruction: `gen_NOT`, `helper_divl_EAX`, `trans_addi`.
fn names(text: &str, mnemonic: &str) -> bool {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric());
    // A helper has the size of its operands behind the name.
    parts.map(str::to_ascii_lowercase).any(|part| {
        part == mnemonic
            || part.strip_prefix(mnemonic).is_some_and(|size| matches!(size, "b" | "w" | "l" | "q" | "d"))
    })
}

/// The part of QEMU that `file` belongs to, where that makes code of a guest's at all: where no stage is known, as of
/// programs.
fn any(file: &str) -> Option<&'static str> {
    let stages = [Stage::Frontend, Stage::Optimiser, Stage::Backend, Stage::None];
    let part = stages.into_iter().find_map(|stage| part(stage, file));
    part.filter(|_| !file.starts_with("accel/"))
}

/// The part of QEMU that `file` belongs to, where that makes `stage`.
fn part(stage: Stage, file: &str) -> Option<&'static str> {
    let name = file.rsplit('/').next().unwrap_or(file);
    let target = file.starts_with("target/");
    let helper = name.contains("helper") && name != "helper.h" || name.starts_with("ops_");
    let optimiser = ["tcg/optimize.c", "tcg/tcg.c"].contains(&file) || file.starts_with("tcg/tcg-op");
    let backend = file.starts_with("tcg/") && file.matches('/').count() > 1;
    match stage {
        Stage::Frontend if target && !helper => Some("the frontend"),
        Stage::Frontend if file.starts_with("tcg/tcg-op") => Some("what the frontend makes ops with"),
        Stage::Optimiser if optimiser => Some("the optimiser"),
        Stage::Backend if backend => Some("the backend"),
        Stage::Backend if file == "tcg/tcg.c" => Some("what allocates registers for the backend"),
        Stage::None if target && helper => Some("the helpers that translated code calls"),
        Stage::None if file.starts_with("fpu/") => Some("the floating point that helpers call"),
        Stage::None if file.starts_with("accel/") => Some("what keeps and links translated blocks"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIFF: &str = "diff --git a/util/x.c b/util/x.c
index 1..2 100644
--- a/util/x.c
+++ b/util/x.c
@@ -1,2 +1,2 @@ int x(void)
 {
--- a/looks like a header
++++ b/but is changed text
@@ -9 +9 @@
-a
+b
\\ No newline at end of file
diff --git a/target/i386/tcg/emit.c.inc b/target/i386/tcg/emit.c.inc
--- a/target/i386/tcg/emit.c.inc
+++ b/target/i386/tcg/emit.c.inc
@@ -5,3 +5,3 @@ static void gen_NOT(DisasContext *s)
 
-    not(a);
+    not(b);
 }
";

    #[test]
    fn a_diff_is_taken_apart() {
        let found = hunks(DIFF);
        let places: Vec<_> = found.iter().map(|hunk| (&*hunk.file, &*hunk.function)).collect();
        let emit = "target/i386/tcg/emit.c.inc";
        assert_eq!(
            places,
            [("util/x.c", "int x(void)"), ("util/x.c", ""), (emit, "static void gen_NOT(DisasContext *s)")]
        );
        assert!(found[0].text.ends_with("++++ b/but is changed text\n"), "{}", found[0].text);
        assert!(found[1].text.ends_with("+b\n\\ No newline at end of file\n"), "{}", found[1].text);
    }

    #[test]
    fn what_fits_comes_first() {
        let mut found = hunks(DIFF);
        order(&mut found, Some(Stage::Frontend), Some("not word [rdi]"));
        assert_eq!(found[0].function, "static void gen_NOT(DisasContext *s)");
        let because = found[0].because.as_deref().unwrap();
        assert!(because.contains("the frontend") && because.contains("called after `not`"), "{because}");
        assert_eq!((&*found[1].function, &found[1].because), ("int x(void)", &None));
        order(&mut found, None, None);
        assert_eq!(found[0].function, "static void gen_NOT(DisasContext *s)");
        assert!(found[1].because.is_none() && found[2].because.is_none());
        order(&mut found, Some(Stage::Backend), None);
        assert!(found.iter().all(|hunk| hunk.because.is_none()));
    }

    #[test]
    fn what_changes_only_comments_is_not_likely() {
        let comment = "+++ b/accel/tcg/cpu-exec.c\n@@ -1 +1 @@ f\n-    /* once */\n+    /* twice */\n";
        let helper = "+++ b/target/i386/tcg/seg_helper.c\n@@ -1 +1 @@ g\n-    *at = 1;\n+    *at = 2;\n";
        let code = "+++ b/accel/tcg/tb-maint.c\n@@ -1 +1 @@ h\n-    a();\n+    b();\n";
        let mut found = hunks(&[comment, code, helper].concat());
        order(&mut found, Some(Stage::None), None);
        let functions: Vec<_> = found.iter().map(|hunk| (&*hunk.function, hunk.because.is_some())).collect();
        assert_eq!(functions, [("g", true), ("h", true), ("f", false)]);
    }

    #[test]
    fn files_belong_to_stages() {
        for (stage, file) in [
            (Stage::Frontend, "target/i386/tcg/translate.c"),
            (Stage::Frontend, "target/i386/helper.h"),
            (Stage::Optimiser, "tcg/optimize.c"),
            (Stage::Backend, "tcg/i386/tcg-target.c.inc"),
            (Stage::None, "target/i386/tcg/seg_helper.c"),
            (Stage::None, "target/i386/ops_sse.h"),
            (Stage::None, "accel/tcg/tb-maint.c"),
        ] {
            assert!(part(stage, file).is_some(), "{stage:?} {file}");
            for other in [Stage::Frontend, Stage::Optimiser, Stage::Backend, Stage::None] {
                assert!(other == stage || part(other, file).is_none(), "{other:?} {file}");
            }
        }
        assert!(names("uint64_t helper_divl_EAX(CPUX86State *env)", "div"));
        assert!(!names("static void gen_ANDN(DisasContext *s)", "and"));
        assert_eq!(mnemonic("lock add dword [rax],1").as_deref(), Some("add"));
        assert_eq!(mnemonic("(0f 0b)"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([@+\\- \\\\a]{0,12}(@@ -1,3 \\+1,99999999999999999999 @@ f)?\n){0,30}") {
            let mut found = hunks(&text);
            order(&mut found, Some(Stage::None), Some(&text));
        }
    }
}

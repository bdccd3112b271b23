//! What is typed into a guest: a script that waits for text on the console and sends text.
//!
//! A line each: `wait TEXT` goes on once the guest has written TEXT, after all that was waited for before; `send
//! TEXT` types it. In TEXT `\n`, `\r`, `\t`, `\e`, `\\` and `\xHH` stand for what they usually do, and blanks at
//! its end count only before a closing `\`. Empty lines and those that begin with `#` are left out.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Malformed {
    pub line: usize,
    pub what: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Wait(Vec<u8>),
    Send(Vec<u8>),
}

/// A script, and how far it has been played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Each with its line, from 1.
    steps: std::collections::VecDeque<(usize, Step)>,
    /// What the guest has written since the last text was found.
    heard: Vec<u8>,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// Where a line is no step.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut steps = std::collections::VecDeque::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = |what: String| Malformed { line: number + 1, what };
            let (word, text) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let text = unescape(text.trim_start()).map_err(malformed)?;
            let step = match word {
                _ if text.is_empty() => return Err(malformed(format!("`{word}` without a text"))),
                "wait" => Step::Wait(text),
                "send" => Step::Send(text),
                _ => return Err(malformed(format!("`{word}` is neither wait nor send"))),
            };
            steps.push_back((number + 1, step));
        }
        Ok(Script { steps, heard: Vec::new() })
    }

    /// Takes what the guest wrote; gives back what is to be typed now.
    pub fn heard(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.heard.extend_from_slice(bytes);
        let mut typed = Vec::new();
        while let Some((_, step)) = self.steps.front() {
            match step {
                Step::Send(text) => typed.extend_from_slice(text),
                Step::Wait(text) => match self.heard.windows(text.len()).position(|found| found == text) {
                    Some(at) => drop(self.heard.drain(..at + text.len())),
                    None => {
                        // Only what can begin the text is of use.
                        let over = (self.heard.len() + 1).saturating_sub(text.len());
                        self.heard.drain(..over);
                        return typed;
                    }
                },
            }
            self.steps.pop_front();
        }
        self.heard.clear();
        typed
    }

    /// The line that it waits at, if it has not come to its end.
    #[must_use]
    pub fn waits_at(&self) -> Option<usize> {
        self.steps.front().map(|(line, _)| *line)
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        if char != '\\' {
            bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        match rest.next() {
            Some('n') => bytes.push(b'\n'),
            Some('r') => bytes.push(b'\r'),
            Some('t') => bytes.push(b'\t'),
            Some('e') => bytes.push(0x1b),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => {
                let digits: String = rest.by_ref().take(2).collect();
                let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 2);
                bytes.push(byte.ok_or_else(|| format!("`\\x{digits}` is not a byte"))?);
            }
            Some(other) => return Err(format!("`\\{other}` stands for nothing; a backslash is `\\\\`")),
            // So that blanks before it count.
            None => {}
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::Script;

    #[test]
    fn a_script_waits_and_sends() {
        let text = "# log in\nwait login: \\\n\nsend root\\n\nwait #\nsend a\\x41\\\\\n send b\n";
        let mut script = Script::parse(text).unwrap();
        assert_eq!(script.heard(b"# nothing yet, lo"), b"");
        assert_eq!(script.waits_at(), Some(2));
        assert_eq!(script.heard(b"gin: "), b"root\n");
        assert_eq!(script.heard(b"$"), b"");
        assert_eq!(script.heard(b"\n# "), b"aA\\b");
        assert_eq!(script.waits_at(), None);
        assert_eq!(script.heard(b"more"), b"");
    }

    #[test]
    fn one_piece_may_answer_several_waits() {
        let mut script = Script::parse("wait a\nwait b\nsend x\nwait a\nsend y").unwrap();
        assert_eq!(script.heard(b"ab a"), b"xy");
    }

    #[test]
    fn what_is_no_step_is_told_with_its_line() {
        for (text, told) in [
            ("wait a\nsned b", "line 2: `sned` is neither wait nor send"),
            ("send", "line 1: `send` without a text"),
            ("send \\q", "line 1: `\\q` stands for nothing; a backslash is `\\\\`"),
            ("send \\x4", "line 1: `\\x4` is not a byte"),
        ] {
            assert_eq!(Script::parse(text).unwrap_err().to_string(), told);
        }
    }
}

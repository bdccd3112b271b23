//! The value of one option as QEMU reads it: a list of `key=value` with commas between (util/option.c,
//! util/keyval.c), or an object in JSON where it begins with a brace.

use std::fmt;

use serde_json::{Map, Value};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    key: String,
    value: String,
    /// The user wrote one word: a value whose key goes without saying, or a key that stands for `=on`.
    bare: Option<String>,
}

/// An option's value, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    fields: Vec<Field>,
    /// Where the value was JSON: what it is written back from.
    object: Option<Map<String, Value>>,
}

impl Fields {
    /// `implied` is the key of a first word without one. Objects within JSON become dotted keys, as QEMU's own
    /// `key=value` form has them.
    pub(super) fn parse(text: &str, implied: &str) -> Self {
        if text.starts_with('{')
            && let Ok(Value::Object(object)) = serde_json::from_str(text)
        {
            let mut fields = Vec::new();
            flatten("", &object, &mut fields);
            return Fields { fields, object: Some(object) };
        }
        let mut fields = Vec::new();
        for word in words(text) {
            let field = match word.split_once('=') {
                Some((key, value)) => Field { key: key.to_owned(), value: value.to_owned(), bare: None },
                None if fields.is_empty() && !implied.is_empty() => {
                    Field { key: implied.to_owned(), value: word.clone(), bare: Some(word) }
                }
                None => Field { key: word.clone(), value: "on".to_owned(), bare: Some(word) },
            };
            fields.push(field);
        }
        Fields { fields, object: None }
    }

    /// The value that QEMU uses: the last one given.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().rev().find(|field| field.key == key).map(|field| field.value.as_str())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| matches!(value, "on" | "yes" | "true" | "y"))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.key.as_str())
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.value.as_str())
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.put(key, value, Value::String(value.to_owned()));
    }

    /// Sets `key` to on or off.
    pub(super) fn switch(&mut self, key: &str, on: bool) {
        self.put(key, if on { "on" } else { "off" }, Value::Bool(on));
    }

    fn put(&mut self, key: &str, value: &str, json: Value) {
        let field = Field { key: key.to_owned(), value: value.to_owned(), bare: None };
        match self.fields.iter().position(|field| field.key == key) {
            Some(place) => {
                self.fields[place] = field;
                let mut first = true;
                self.fields.retain(|field| field.key != key || std::mem::take(&mut first));
            }
            None => self.fields.push(field),
        }
        if let Some(object) = &mut self.object {
            object.insert(key.to_owned(), json);
        }
    }

    /// Takes the fields whose key `moves` says yes to out of these.
    pub(super) fn split(self, moves: impl Fn(&str) -> bool) -> (Self, Self) {
        let (moved, left) = self.fields.into_iter().partition(|field| moves(&field.key));
        (Fields { fields: moved, object: None }, Fields { fields: left, object: None })
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.fields.retain(|field| field.key != key);
        if let Some(object) = &mut self.object {
            object.remove(key);
        }
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            return f.write_str(&Value::Object(object.clone()).to_string());
        }
        for (place, field) in self.fields.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            match &field.bare {
                // Only the first word may go without its key.
                Some(word) if place == 0 || field.value == "on" => f.write_str(&escaped(word))?,
                _ => write!(f, "{}={}", field.key, escaped(&field.value))?,
            }
        }
        Ok(())
    }
}

/// A value as it stands in a list: a comma is written twice.
pub(super) fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

/// The words between single commas; a double comma is one that belongs to a word.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            ',' if rest.next_if_eq(&',').is_some() => word.push(','),
            ',' => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn flatten(prefix: &str, object: &Map<String, Value>, fields: &mut Vec<Field>) {
    for (key, value) in object {
        let key = format!("{prefix}{key}");
        let value = match value {
            Value::Object(inner) => {
                flatten(&format!("{key}."), inner, fields);
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Bool(on) => if *on { "on" } else { "off" }.to_owned(),
            other => other.to_string(),
        };
        fields.push(Field { key, value, bare: None });
    }
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn a_list_is_written_back_as_it_came() {
        for text in ["a.img,if=virtio", "file=a,,b.img,format=raw", "user,id=n,restrict", "x", ""] {
            assert_eq!(Fields::parse(text, "file").to_string(), text);
        }
        assert_eq!(Fields::parse("file=a,,b.img,snapshot", "file").get("file"), Some("a,b.img"));
        assert!(Fields::parse("a.img,snapshot", "file").is_on("snapshot"));
        assert_eq!(
            Fields::parse("a,if=ide,if=virtio", "file").get("if"),
            Some("virtio"),
            "the last one counts"
        );
    }

    #[test]
    fn a_field_is_set_in_its_place() {
        let mut list = Fields::parse("virtio-blk-pci,drive=a,drive=b,serial=1", "driver");
        list.set("drive", "c");
        list.switch("share-rw", true);
        assert_eq!(list.to_string(), "virtio-blk-pci,drive=c,serial=1,share-rw=on");
        list.remove("serial");
        assert_eq!(list.to_string(), "virtio-blk-pci,drive=c,share-rw=on");
    }

    #[test]
    fn json_is_read_with_dotted_keys_and_stays_json() {
        let text = r#"{"driver":"qcow2","node-name":"q","file":{"driver":"file","filename":"a,b"},"read-only":false}"#;
        let mut json = Fields::parse(text, "driver");
        assert_eq!((json.get("driver"), json.get("file.filename")), (Some("qcow2"), Some("a,b")));
        assert!(!json.is_on("read-only"));
        json.switch("read-only", true);
        json.set("node-name", "r");
        let again = Fields::parse(&json.to_string(), "driver");
        assert!(again.is_on("read-only") && again.get("file.filename") == Some("a,b"));
        assert_eq!(again.get("node-name"), Some("r"));
    }

    #[test]
    fn what_is_no_json_is_a_list_that_qemu_refuses() {
        assert_eq!(Fields::parse("{\"driver\":", "driver").get("driver"), Some("{\"driver\":"));
    }
}

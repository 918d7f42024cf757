//! The layers of settings: flags over variables over the file.
//!
//! Entry point: [`Layers::read`]. A setting is one field of a struct of arguments: clap makes its flag and
//! its help, its key in the file is the name of the argument, and its variable is `OXENV_` with that name
//! in capitals.
//!
//! Invariant: a value that does not parse is an error that names its variable, or its file and line. Those of
//! flags and of the file are parsed even where another layer wins.

use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use oxenv_wire::preview;
use serde::de::value::{Error, MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use crate::exit::usage;

/// The settings that have no variable.
const WITHOUT_VARIABLE: [&str; 5] =
    ["share_workspace", "audit_arguments", "allowed_hosts", "allowed_origins", "variables"];

/// Looks up a variable of the environment.
pub(crate) type Lookup = fn(&str) -> Option<String>;

/// What flags, variables and the file say.
pub(crate) struct Layers {
    /// The flags that were given, without the defaults of clap.
    flags: ArgMatches,
    lookup: Lookup,
    file: ConfigFile,
}

/// The file given by `--config`.
#[derive(Default)]
pub(crate) struct ConfigFile {
    /// What its errors begin with.
    shown: String,
    text: String,
    values: toml::Table,
}

/// The value of a setting in the layers below the flags.
enum LayerValue {
    Variable(Variable),
    File(toml::Value),
}

/// A variable that is set.
#[derive(Clone)]
struct Variable {
    name: String,
    text: String,
}

impl Layers {
    pub(crate) fn new(mut flags: ArgMatches, lookup: Lookup, file: ConfigFile) -> Self {
        let ids: Vec<String> = flags.ids().map(ToString::to_string).collect();
        for id in ids {
            if flags.value_source(&id) == Some(ValueSource::DefaultValue) {
                // It is an id of these matches, so this cannot fail.
                let _ = flags.try_clear_id(&id);
            }
        }
        Layers { flags, lookup, file }
    }

    /// Reads a struct of arguments: each field is the value of the highest layer that has it, else its
    /// default.
    ///
    /// # Errors
    /// When a variable or a value of the file does not parse.
    pub(crate) fn read<T: Args + DeserializeOwned>(&self) -> anyhow::Result<T> {
        toml::from_str::<T>(&self.file.text).map_err(|error| self.file.error(&error))?;
        let mut entries = Vec::new();
        for key in keys::<T>() {
            if let Some(variable) = variable(&key, self.lookup) {
                entries.push((key, LayerValue::Variable(variable)));
            } else if let Some(value) = self.file.values.get(&key) {
                entries.push((key, LayerValue::File(value.clone())));
            }
        }
        let entries = Entries { left: entries.into_iter(), value: None };
        let mut read =
            T::deserialize(MapAccessDeserializer::new(entries)).map_err(|error| usage(error.to_string()))?;
        read.update_from_arg_matches(&self.flags)?;
        Ok(read)
    }

    /// Refuses what is in the file and is not a setting.
    ///
    /// # Errors
    /// When the file has a key that is not an argument of `T`.
    pub(crate) fn refuse_unknown<T: Args>(&self) -> anyhow::Result<()> {
        let known = Keys(keys::<T>());
        let checked =
            toml::Deserializer::parse(&self.file.text).and_then(|file| file.deserialize_map(&known));
        checked.map_err(|error| self.file.error(&error))
    }
}

impl ConfigFile {
    /// # Errors
    /// When the file cannot be read or is not TOML.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| usage(format!("cannot read the configuration {shown}: {error}")))?;
        Self::parse(shown.to_string(), text)
    }

    pub(crate) fn parse(shown: String, text: String) -> anyhow::Result<Self> {
        let values = toml::from_str(&text);
        let file = ConfigFile { shown, text, values: toml::Table::new() };
        match values {
            Ok(values) => Ok(ConfigFile { values, ..file }),
            Err(error) => Err(file.error(&error)),
        }
    }

    fn error(&self, error: &toml::de::Error) -> anyhow::Error {
        // The library's message shows line, column and the line itself.
        usage(format!("{}: {error}", self.shown))
    }
}

/// The keys of settings: the names of the arguments.
fn keys<T: Args>() -> Vec<String> {
    let command = T::augment_args(clap::Command::new("settings"));
    let keys = command.get_arguments().map(|argument| argument.get_id().to_string());
    // The file does not name another.
    keys.filter(|key| key != "config").collect()
}

/// The variable of a setting: ours, else that of OpenEnv. An empty one counts as unset.
fn variable(key: &str, lookup: Lookup) -> Option<Variable> {
    let set = |name: &str| {
        let text = lookup(name).filter(|text| !text.is_empty())?;
        Some(Variable { name: name.to_owned(), text })
    };
    if WITHOUT_VARIABLE.contains(&key) {
        return None;
    }
    set(&format!("OXENV_{}", key.to_uppercase())).or_else(|| match key {
        "max_sessions" => set("MAX_CONCURRENT_ENVS"),
        // OpenEnv compares it without regard to case.
        "mode" => set("OPENENV_MODE").map(|mode| Variable { text: mode.text.to_lowercase(), ..mode }),
        _ => None,
    })
}

/// Values of settings as serde takes them.
struct Entries {
    left: std::vec::IntoIter<(String, LayerValue)>,
    value: Option<LayerValue>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.left.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take().ok_or_else(|| Error::custom("a value without its key"))? {
            LayerValue::Variable(variable) => seed.deserialize(variable.clone()).map_err(|error: Error| {
                let text = preview(&variable.text);
                Error::custom(format!("{} is '{text}': {error}", variable.name))
            }),
            LayerValue::File(value) => seed.deserialize(value).map_err(Error::custom),
        }
    }
}

impl Variable {
    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&self) -> Result<T, Error> {
        self.text.parse().map_err(Error::custom)
    }
}

/// Reads the text of a variable as what is asked for.
impl<'de> Deserializer<'de> for Variable {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.text)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text.as_str() {
            "0" | "false" | "no" => visitor.visit_bool(false),
            "1" | "true" | "yes" => visitor.visit_bool(true),
            _ => Err(Error::custom("use true or false")),
        }
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u16(self.parse()?)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(self.parse()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if !variants.contains(&self.text.as_str()) {
            return Err(Error::custom(format!("use one of {}", variants.join(", "))));
        }
        let text: StrDeserializer<'_, Error> = self.text.as_str().into_deserializer();
        visitor.visit_enum(text)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u32 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The keys that a file may have.
struct Keys(Vec<String>);

impl<'de> Visitor<'de> for &Keys {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(self)?.is_some() {
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Fails within the key, so that the error has its line.
impl<'de> DeserializeSeed<'de> for &Keys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let key: String = serde::Deserialize::deserialize(deserializer)?;
        if self.0.contains(&key) {
            return Ok(());
        }
        let known: Vec<String> = self.0.iter().map(|key| format!("`{key}`")).collect();
        Err(D::Error::custom(format!("unknown field `{key}`, expected one of {}", known.join(", "))))
    }
}

//! What events write as text and the engine has as numbers: times, and the ids of sessions.
//!
//! A daemon makes events by the thousand of which nobody reads a word: a number becomes text where it is written.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time of day, in whole microseconds since 1970-01-01 UTC; as text RFC 3339 in UTC with microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last one that the text has room for, 9999-12-31T23:59:59.999999Z.
    const LAST: u64 = 253_402_300_799_999_999;

    /// That of so many nanoseconds since 1970-01-01 UTC.
    pub const fn from_wall(nanos: u64) -> Self {
        // 64 bits of nanoseconds end in the year 2554.
        Self(nanos / 1000)
    }

    /// Microseconds since 1970-01-01 UTC.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// That of so many microseconds since 1970-01-01 UTC; `None` where the text has no room for it.
    pub fn from_micros(micros: u64) -> Option<Self> {
        (micros <= Self::LAST).then_some(Self(micros))
    }

    /// The same for the standard library.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_micros(self.time()).fmt(f)
    }
}

/// It is not written as events write times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotATimestamp(String);

impl fmt::Display for NotATimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no time as in events, such as \"2026-01-01T12:00:00.000000Z\"", self.0)
    }
}

impl std::error::Error for NotATimestamp {}

impl FromStr for Timestamp {
    type Err = NotATimestamp;

    /// In one way only, as it is written.
    fn from_str(text: &str) -> Result<Self, NotATimestamp> {
        let since = humantime::parse_rfc3339(text).ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let micros = since.and_then(|since| u64::try_from(since.as_micros()).ok());
        let time = micros.and_then(Self::from_micros).filter(|time| time.to_string() == text);
        time.ok_or_else(|| NotATimestamp(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text(d)
    }
}

/// The id of a session, or of an added pinhole; as text sixteen hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// It is no id: up to sixteen hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the id of a session: up to sixteen hexadecimal digits")
    }
}

impl std::error::Error for NotAnId {}

impl FromStr for SessionId {
    type Err = NotAnId;

    /// Leading zeros may be left out.
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        // The standard library takes a sign.
        let digits = text.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| digits).map(Self).ok_or(NotAnId)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        text(d)
    }
}

/// Reads what is written as text.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(d: D) -> Result<T, D::Error> {
    struct Text<T>(std::marker::PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    d.deserialize_str(Text(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_microseconds_and_read_back() {
        let time = Timestamp::from_wall(1_700_000_000_123_456_789);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20.123456Z");
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2023-11-14T22:13:20.123456Z\"");
        assert_eq!("2023-11-14T22:13:20.123456Z".parse(), Ok(time));
        assert_eq!(serde_json::from_str::<Timestamp>("\"2023-11-14T22:13:20.123456Z\"").unwrap(), time);
        assert!(time < Timestamp::from_wall(1_700_000_000_123_457_000));
        for wrong in
            ["yesterday", "", "2026-01-01 00:00:00.000000", "2026-01-01T00:00:00Z", "1969-12-31T23:59:59.000000Z"]
        {
            assert!(wrong.parse::<Timestamp>().unwrap_err().to_string().contains(&format!("{wrong:?}")));
        }
        assert!(serde_json::from_str::<Timestamp>("5").is_err());
    }

    #[test]
    fn every_time_can_be_written() {
        assert_eq!(Timestamp::from_wall(u64::MAX).to_string(), "2554-07-21T23:34:33.709551Z");
        let last = Timestamp::from_micros(Timestamp::LAST).unwrap();
        assert_eq!(last.to_string(), "9999-12-31T23:59:59.999999Z");
        assert_eq!(last.to_string().parse(), Ok(last));
        assert_eq!(
            (Timestamp::from_micros(Timestamp::LAST + 1), Timestamp::from_micros(0)),
            (None, Some(Timestamp(0)))
        );
    }

    #[test]
    fn an_id_has_sixteen_digits_and_may_be_given_with_fewer() {
        assert_eq!(SessionId(255).to_string(), "00000000000000ff");
        assert_eq!(serde_json::to_string(&SessionId(255)).unwrap(), "\"00000000000000ff\"");
        assert_eq!(("ff".parse(), "00000000000000FF".parse()), (Ok(SessionId(255)), Ok(SessionId(255))));
        for wrong in ["", "+ff", "x", "-1", "10000000000000000"] {
            assert_eq!(wrong.parse::<SessionId>(), Err(NotAnId), "{wrong:?}");
        }
        assert!(serde_json::from_str::<SessionId>("\"session\"").unwrap_err().to_string().contains("hexadecimal"));
    }
}

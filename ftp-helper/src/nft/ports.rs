//! Sets of ports.

use std::{fmt, ops::RangeInclusive};

/// A set of ports.
#[derive(Clone, PartialEq, Eq)]
pub struct Ports(Box<[u64; 1024]>);

impl Ports {
    /// No port.
    pub fn none() -> Self {
        Self(Box::new([0; 1024]))
    }

    /// Every port.
    pub fn all() -> Self {
        Self(Box::new([u64::MAX; 1024]))
    }

    /// The same with the ports of a range.
    #[must_use]
    pub fn with(mut self, range: RangeInclusive<u16>) -> Self {
        for port in range {
            self.0[usize::from(port) / 64] |= 1 << (port % 64);
        }
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// Whether a port is one of them.
    pub fn has(&self, port: u16) -> bool {
        self.0[usize::from(port) / 64] & 1 << (port % 64) != 0
    }

    /// What is in both.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a &= b);
        self
    }

    /// What is in either.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a |= b);
        self
    }

    /// What is not in the other.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a &= !b);
        self
    }

    /// The ports in a row, ascending.
    pub fn runs(&self) -> Vec<RangeInclusive<u16>> {
        let mut runs: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (0..=u16::MAX).filter(|p| self.has(*p)) {
            match runs.last_mut() {
                Some(last) if u32::from(*last.end()) + 1 == u32::from(port) => *last = *last.start()..=port,
                _ => runs.push(port..=port),
            }
        }
        runs
    }

    /// The length of the longest row.
    pub fn widest(&self) -> usize {
        self.runs().iter().map(ExactSizeIterator::len).max().unwrap_or(0)
    }
}

impl From<RangeInclusive<u16>> for Ports {
    fn from(range: RangeInclusive<u16>) -> Self {
        Self::none().with(range)
    }
}

/// As nftables writes them: `21, 40000-50000`.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, run) in self.runs().iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", run.start())?;
            if run.start() != run.end() {
                write!(f, "-{}", run.end())?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_joined_and_shown() {
        let p = Ports::from(21..=21).with(40000..=50000).with(50001..=50010);
        assert_eq!(p.to_string(), "21, 40000-50010");
        assert_eq!(p.widest(), 10_011);
        assert!(p.has(21) && !p.has(22));
        assert_eq!(p.clone().without(&Ports::from(1..=45000)).to_string(), "45001-50010");
        assert_eq!(Ports::all().without(&Ports::from(1..=65535)).to_string(), "0");
        assert!(Ports::none().and(&p).is_empty());
        assert_eq!(Ports::none().or(&p), p);
        assert_eq!(Ports::all().runs(), [0..=65535]);
        assert_eq!(Ports::none().widest(), 0);
    }
}

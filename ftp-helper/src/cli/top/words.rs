//! Short words for narrow columns.

/// A duration in at most six characters, such as `4m12s`.
pub(super) fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// What is left of a pinhole's time, with tenths where they matter.
pub(super) fn countdown(ms: u64) -> String {
    if ms < 60_000 { format!("{}.{}s", ms / 1000, ms / 100 % 10) } else { age(ms) }
}

/// A number of bytes in at most six characters, such as `1.2M`.
pub(super) fn bytes(n: u64) -> String {
    scaled(n, 1024)
}

/// A count in at most six characters, such as `31.4k`.
pub(super) fn count(n: u64) -> String {
    if n < 100_000 { n.to_string() } else { scaled(n, 1000).to_lowercase() }
}

fn scaled(n: u64, step: u64) -> String {
    let mut unit = 1;
    let mut name = "";
    for next in ["K", "M", "G", "T", "P", "E"] {
        if n / unit < step {
            break;
        }
        unit *= step;
        name = next;
    }
    let whole = n / unit;
    if name.is_empty() || whole >= 100 {
        return format!("{whole}{name}");
    }
    // The remainder is below 1024^6, so that ten of it fit.
    format!("{whole}.{}{name}", n % unit * 10 / unit)
}

/// How much of a whole, in percent; `-` of nothing.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// A text cut to a width. Of an address the middle is left out, since its end tells the port; of all else the end.
pub(super) fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let Some(kept) = width.checked_sub(1) else { return String::new() };
    let is_address = text.contains(':') && !text.contains(' ');
    let (head, tail) = if is_address { (kept.div_ceil(2), kept / 2) } else { (kept, 0) };
    text.chars().take(head).chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_short() {
        let ages = [999, 61_000, 3_660_000, 90_000_000].map(age);
        assert_eq!(ages, ["0s", "1m01s", "1h01m", "1d01h"]);
        assert_eq!([9_940, 300_000, 0].map(countdown), ["9.9s", "5m00s", "0.0s"]);
        let sizes = [0, 1023, 1024, 1_258_291, 200 << 20, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0", "1023", "1.0K", "1.1M", "200M", "15.9E"]);
        assert_eq!([99_999, 314_159].map(count), ["99999", "314k"]);
        assert_eq!([share(1, 8), share(0, 0)], ["12.5 %", "-"]);
    }

    #[test]
    fn a_cut_address_keeps_both_ends() {
        assert_eq!(fit("refused third_host", 12), "refused thi…");
        assert_eq!(fit("192.0.2.1:40000", 15), "192.0.2.1:40000");
        assert_eq!(fit("[2001:db8:a::a]:55904", 12), "[2001:…55904");
        assert_eq!(fit("abc", 1), "…");
        assert_eq!(fit("abc", 0), "");
    }
}

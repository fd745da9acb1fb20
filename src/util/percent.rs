//! Percent-encoded texts.

/// Returns the bytes of a text in which `%41` stands for `A`. A percent sign without two digits stands for itself.
pub(crate) fn decoded(text: &[u8]) -> Vec<u8> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((first, others)) = rest.split_first() {
        match others {
            [high, low, after @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                    continue;
                }
                _ => bytes.push(b'%'),
            },
            _ => bytes.push(*first),
        }
        rest = others;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_with_two_digits_is_a_byte() {
        for (text, bytes) in
            [("jo", &b"jo"[..]), ("%41%c3%B6", "Aö".as_bytes()), ("100%", b"100%"), ("%zz%2", b"%zz%2")]
        {
            assert_eq!(decoded(text.as_bytes()), bytes, "{text}");
        }
    }
}

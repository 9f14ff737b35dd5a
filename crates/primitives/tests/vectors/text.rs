//! Makes `text.json`.

use keystrata_primitives::envelope;

use crate::{
    make::bytes,
    schema::{File, Hex, ReadText, Refusal, TextRead},
};

pub(crate) fn file() -> File<ReadText> {
    let mut vectors = Vec::new();
    let mut add = |name: &str, comment: &str, text: &str, expected| {
        vectors.push(ReadText { name: name.into(), comment: comment.into(), text: text.into(), expected });
    };
    let long: [u8; 145] = bytes("text");
    let valid: [(&str, &str, &[u8]); 7] = [
        ("no_bytes", "The prefix alone; whether it is an envelope is not asked here.", b""),
        ("one_byte", "Two characters, the last of which holds two bits.", &[1]),
        ("two_bytes", "Three characters, the last of which holds four bits.", &[0xff, 0xfe]),
        ("three_bytes", "Four characters.", &[0xfb, 0xff, 0xbf]),
        ("dash_and_underscore", "The two characters in which base64url is not base64.", &[0xfb, 0xef, 0xff]),
        ("zeros", "Letters A.", &[0; 16]),
        ("long", "As long as an envelope of five bytes.", &long),
    ];
    for (name, comment, bytes) in valid {
        add(name, comment, &envelope::to_text(bytes), TextRead::Bytes(Hex::of(bytes)));
    }
    let refused = [
        (Refusal::TextEmpty, "empty", "No characters at all.", ""),
        (Refusal::TextNoPrefix, "half_the_prefix", "Not even the whole prefix.", "ks1"),
        (Refusal::TextNoPrefix, "upper_case_prefix", "The prefix is lower case.", "KS1.AQ"),
        (Refusal::TextNoPrefix, "prefix_of_the_future", "Another version.", "ks2.AQ"),
        (Refusal::TextNoPrefix, "without_prefix", "Base64url alone.", "S1MBAQ"),
        (Refusal::TextNoPrefix, "space_before", "White space before the prefix.", " ks1.AQ"),
        (Refusal::TextNoPrefix, "byte_order_mark_before", "U+FEFF before the prefix.", "\u{feff}ks1.AQ"),
        (Refusal::TextBadCharacter, "padding", "Both characters of padding.", "ks1.AQ=="),
        (Refusal::TextBadCharacter, "half_the_padding", "One of them.", "ks1.AQ="),
        (Refusal::TextBadCharacter, "padding_alone", "Padding of nothing.", "ks1.===="),
        (Refusal::TextBadCharacter, "padding_in_the_middle", "Two texts joined.", "ks1.AQ==AQ"),
        (Refusal::TextBadCharacter, "plus", "The other alphabet.", "ks1.++__"),
        (Refusal::TextBadCharacter, "slash", "The other alphabet.", "ks1.--//"),
        (Refusal::TextBadCharacter, "line_end_after", "As a file may end.", "ks1.-__-AQ\n"),
        (Refusal::TextBadCharacter, "carriage_return_after", "As a file may end elsewhere.", "ks1.-__-AQ\r\n"),
        (Refusal::TextBadCharacter, "space_inside", "A space.", "ks1.-__- AQ"),
        (Refusal::TextBadCharacter, "line_broken", "As mail breaks lines.", "ks1.-__-\nAQAA"),
        (Refusal::TextBadCharacter, "tab_inside", "A tabulator.", "ks1.-__-\tAQ"),
        (Refusal::TextBadCharacter, "nul_inside", "A NUL.", "ks1.-__-\0AQ"),
        (Refusal::TextBadCharacter, "not_ascii", "A letter that base64url has not.", "ks1.-__-A\u{e9}"),
        (Refusal::TextBadCharacter, "full_width_letter", "U+FF21 is not the letter A.", "ks1.AQ\u{ff21}Q"),
        (Refusal::TextBadCharacter, "second_prefix", "The point is no character of base64url.", "ks1.ks1.AQ"),
        (Refusal::TextBadCharacter, "character_before_length", "Of two faults, the character decides.", "ks1.AAAA="),
        (Refusal::TextBadLength, "one_character", "Six bits are no byte.", "ks1.A"),
        (Refusal::TextBadLength, "five_characters", "Six bits are left over.", "ks1.-__-A"),
        (Refusal::TextBadLength, "length_before_stray_bits", "Of two faults, the length decides.", "ks1.-__-B"),
        (Refusal::TextStrayBits, "stray_bits_after_one_byte", "AQ is the text of the byte.", "ks1.AR"),
        (Refusal::TextStrayBits, "highest_stray_bit", "The one that is beside the byte.", "ks1.AY"),
        (Refusal::TextStrayBits, "stray_bits_after_two_bytes", "AQE is not AQH.", "ks1.-__-AQH"),
    ];
    for (refusal, name, comment, text) in refused {
        add(name, comment, text, TextRead::Error(refusal));
    }
    File { operation: "read the text form".into(), vectors }
}

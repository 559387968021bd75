//! The least Avro writer that will do: one block, no compression (Avro 1.11, "Object Container Files").

const SCHEMA: &str = r#"{"type": "record", "name": "bird", "fields": [
    {"name": "id", "type": "long"},
    {"name": "song", "type": ["null", "string"]}]}"#;

/// Any 16 bytes that the data does not hold.
const SYNC: [u8; 16] = *b"squadron-sync-ok";

/// An Avro file of `(id, song)`.
pub(super) fn file<'a>(rows: impl Iterator<Item = (i64, Option<&'a str>)>) -> Vec<u8> {
    let mut data = Vec::new();
    let mut count = 0;
    for (id, song) in rows {
        count += 1;
        long(&mut data, id);
        match song {
            None => long(&mut data, 0),
            Some(song) => {
                long(&mut data, 1);
                bytes(&mut data, song.as_bytes());
            }
        }
    }
    let mut file = b"Obj\x01".to_vec();
    long(&mut file, 2); // two entries of metadata
    bytes(&mut file, b"avro.schema");
    bytes(&mut file, SCHEMA.as_bytes());
    bytes(&mut file, b"avro.codec");
    bytes(&mut file, b"null");
    long(&mut file, 0); // end of metadata
    file.extend(SYNC);
    long(&mut file, count);
    bytes(&mut file, &data);
    file.extend(SYNC);
    file
}

/// Zig-zag, seven bits a byte.
fn long(out: &mut Vec<u8>, number: i64) {
    let mut bits = ((number << 1) ^ (number >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    long(out, bytes.len() as i64);
    out.extend(bytes);
}

//! A minimal Avro writer: one block, no compression (Avro 1.11, "Object Container Files").

const SCHEMA: &str = r#"{"type": "record", "name": "bird", "fields": [
    {"name": "id", "type": "long"},
    {"name": "song", "type": ["null", "string"]}]}"#;

/// Any 16 bytes that the data does not hold.
const SYNC: [u8; 16] = *b"squadron-sync-ok";

/// Encodes an Avro file of `(id, song)`.
pub(super) fn encode_file<'a>(rows: impl Iterator<Item = (i64, Option<&'a str>)>) -> Vec<u8> {
    let mut data = Vec::new();
    let mut count = 0;
    for (id, song) in rows {
        count += 1;
        put_long(&mut data, id);
        match song {
            None => put_long(&mut data, 0),
            Some(song) => {
                put_long(&mut data, 1);
                put_bytes(&mut data, song.as_bytes());
            }
        }
    }
    let mut file = b"Obj\x01".to_vec();
    put_long(&mut file, 2); // two entries of metadata
    put_bytes(&mut file, b"avro.schema");
    put_bytes(&mut file, SCHEMA.as_bytes());
    put_bytes(&mut file, b"avro.codec");
    put_bytes(&mut file, b"null");
    put_long(&mut file, 0); // end of metadata
    file.extend(SYNC);
    put_long(&mut file, count);
    put_bytes(&mut file, &data);
    file.extend(SYNC);
    file
}

/// Appends a zig-zag number, seven bits a byte.
fn put_long(out: &mut Vec<u8>, number: i64) {
    let mut bits = ((number << 1) ^ (number >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend(bytes);
}

//! What Azure Blob Storage answers differently: listings, files in blocks, copies, and deletions in
//! batches. Tags stand in listings without quotes, as they do there.

use super::{Answer, Asked, Store, date, decoded, ok, xml};

impl Store {
    /// The answer to a request that only Azure knows.
    pub(super) fn azure(&mut self, asked: &Asked, page: usize) -> Option<Answer> {
        let query = |name: &str| asked.query.get(name).map(String::as_str);
        Some(match (asked.method.as_str(), query("comp")) {
            ("GET", Some("list")) => self.list_blobs(asked, page),
            ("PUT", Some("block")) => {
                let parts = self.blocks.entry(asked.key.clone()).or_default();
                parts.insert(query("blockid").unwrap().to_owned(), asked.body.clone());
                Answer::empty(201)
            }
            ("PUT", Some("blocklist")) => {
                let Some(parts) = self.blocks.remove(&asked.key) else {
                    return Some(super::error(400, "InvalidBlockList"));
                };
                let list = String::from_utf8(asked.body.clone()).unwrap();
                let wanted = list.split("<Uncommitted>").skip(1);
                let wanted = wanted.map(|rest| parts[rest.split('<').next().unwrap()].as_slice());
                let bytes = wanted.collect::<Vec<_>>().concat();
                let etag = self.put(&asked.key, bytes, asked.owner());
                ok(format!("ETag: {etag}\r\n"), Vec::new())
            }
            ("POST", Some("batch")) => self.delete_batch(asked),
            _ => return None,
        })
    }

    fn list_blobs(&self, asked: &Asked, page: usize) -> Answer {
        let (names, marker) = self.page(asked, "marker", page);
        let mut text = String::from("<?xml version=\"1.0\"?><EnumerationResults><Blobs>");
        let (files, folders) = super::folded(asked, names);
        for name in files {
            let object = &self.objects[&name];
            text += &format!(
                "<Blob><Name>{name}</Name><Properties><Last-Modified>{}</Last-Modified><Etag>{}</Etag><Content-Length>{}\
                 </Content-Length><Content-Type>x</Content-Type></Properties></Blob>",
                date(object.modified),
                object.etag.trim_matches('"'),
                object.bytes.len()
            );
        }
        for folder in folders {
            text += &format!("<BlobPrefix><Name>{folder}</Name></BlobPrefix>");
        }
        xml(format!(
            "{text}</Blobs><NextMarker>{}</NextMarker></EnumerationResults>",
            marker.unwrap_or_default()
        ))
    }

    fn delete_batch(&mut self, asked: &Asked) -> Answer {
        let body = String::from_utf8_lossy(&asked.body).into_owned();
        let lines = body.lines().filter_map(|line| line.strip_prefix("DELETE "));
        let mut text = String::new();
        for (number, line) in lines.enumerate() {
            let path = decoded(line.split(' ').next().unwrap());
            let key = path.trim_start_matches('/').split_once('/').unwrap().1;
            let status = match self.objects.remove(key) {
                Some(_) => "202 Accepted",
                None => "404 NotFound",
            };
            text += &format!(
                "--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\
                 x-ms-version: 1\r\n\r\n"
            );
        }
        Answer {
            status: 202,
            headers: "Content-Type: multipart/mixed; boundary=batch\r\n".into(),
            body: format!("{text}--batch--\r\n").into_bytes(),
        }
    }
}

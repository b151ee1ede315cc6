//! A viewer of a VNC server, as small as can be: RFB 3.8 (RFC 6143), no authentication, pixels as they are.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::clients::Picture;

/// A connection.
pub struct Viewer {
    socket: UnixStream,
    /// The screen as the server has described it so far.
    pub picture: Picture,
}

/// XRGB8888: 32 bits per pixel, depth 24, little endian, true colour, the maxima, the shifts, padding.
const PIXELS: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];

impl Viewer {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// There is no server, or it wants something else.
    pub fn connect(socket: &Path, patience: Duration) -> io::Result<Self> {
        let mut socket = UnixStream::connect(socket)?;
        socket.set_read_timeout(Some(patience))?;
        let version: [u8; 12] = read(&mut socket)?;
        expect(&version == b"RFB 003.008\n", &version)?;
        socket.write_all(&version)?;
        let [kinds] = read(&mut socket)?;
        let mut security = vec![0; usize::from(kinds)];
        socket.read_exact(&mut security)?;
        const NONE: u8 = 1;
        expect(security.contains(&NONE), &security)?;
        socket.write_all(&[NONE])?;
        let result: [u8; 4] = read(&mut socket)?;
        expect(result == [0; 4], &result)?;
        const SHARED: u8 = 1;
        socket.write_all(&[SHARED])?;
        let (width, height) = (number(&mut socket)?, number(&mut socket)?);
        let _format: [u8; 16] = read(&mut socket)?;
        let length = u32::from_be_bytes(read(&mut socket)?);
        io::copy(&mut (&mut socket).take(length.into()), &mut io::sink())?;

        const SET_PIXEL_FORMAT: u8 = 0;
        socket.write_all(&[SET_PIXEL_FORMAT, 0, 0, 0])?;
        socket.write_all(&PIXELS)?;
        // Raw, and nothing else.
        const SET_ENCODINGS: u8 = 2;
        socket.write_all(&[SET_ENCODINGS, 0, 0, 1, 0, 0, 0, 0])?;
        Ok(Self {
            socket,
            picture: Picture::filled(width.into(), height.into(), 0),
        })
    }

    /// Asks for what has changed, or for everything, and takes the answer.
    ///
    /// # Errors
    /// The server is gone, or says what was not asked for.
    pub fn update(&mut self, changes: bool) -> io::Result<()> {
        let (width, height) = (self.picture.width as u16, self.picture.height as u16);
        const UPDATE_REQUEST: u8 = 3;
        let mut request = vec![UPDATE_REQUEST, u8::from(changes), 0, 0, 0, 0];
        request.extend(width.to_be_bytes());
        request.extend(height.to_be_bytes());
        self.socket.write_all(&request)?;
        let [kind, _] = read(&mut self.socket)?;
        expect(kind == 0, &[kind])?;
        for _ in 0..number(&mut self.socket)? {
            self.rectangle()?;
        }
        Ok(())
    }

    fn rectangle(&mut self) -> io::Result<()> {
        let mut next = || number(&mut self.socket).map(usize::from);
        let [x, y, width, height] = [next()?, next()?, next()?, next()?];
        let encoding: [u8; 4] = read(&mut self.socket)?;
        expect(encoding == [0; 4], &encoding)?;
        let mut line = vec![0; width * 4];
        for y in y..y + height {
            self.socket.read_exact(&mut line)?;
            let start = y * self.picture.width as usize + x;
            let to = &mut self.picture.pixels[start..start + width];
            for (to, from) in to.iter_mut().zip(line.chunks_exact(4)) {
                *to = u32::from_le_bytes([from[0], from[1], from[2], 0]);
            }
        }
        Ok(())
    }
}

fn read<const N: usize>(socket: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(socket: &mut UnixStream) -> io::Result<u16> {
    Ok(u16::from_be_bytes(read(socket)?))
}

fn expect(holds: bool, said: &[u8]) -> io::Result<()> {
    if holds {
        return Ok(());
    }
    Err(io::Error::other(format!("the server said {said:?}")))
}

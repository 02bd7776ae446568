use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;

/// Long enough that what should come has come.
const PATIENCE: Duration = Duration::from_secs(20);
/// What does not come within this is held back.
const MOMENT: Duration = Duration::from_millis(100);

/// A server that answers every byte with the same, or with this one.
fn server(answer: Option<u8>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || -> io::Result<()> {
                let mut bytes = [0; 4096];
                loop {
                    let length = stream.read(&mut bytes)?;
                    if length == 0 {
                        return Ok(());
                    }
                    if let Some(answer) = answer {
                        bytes.fill(answer);
                    }
                    stream.write_all(&bytes[..length])?;
                }
            });
        }
    });
    port
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", proxy.port())).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn read(stream: &mut TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn echoes(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).expect("sent");
    assert_eq!(read(stream, text.len()).expect("answered"), text);
}

fn is_silent(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(MOMENT)).expect("a timeout");
    let error = stream.read(&mut [0]).expect_err("nothing comes");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
}

fn is_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn it_passes_bytes_both_ways_and_ends_with_either() {
    let proxy = Proxy::start(server(None));
    let mut stream = connect(&proxy);
    let text: Vec<u8> = (0..500_000u32).map(|i| i as u8).collect();
    let mut writer = stream.try_clone().expect("a second handle");
    let sent = text.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent));
    assert_eq!(read(&mut stream, text.len()).expect("answered"), text);
    writing.join().expect("thread").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
}

#[test]
fn refusing_resets_what_is_there_and_what_comes() {
    let proxy = Proxy::start(server(None));
    let mut old = connect(&proxy);
    echoes(&mut old, b"hello");
    proxy.set(Traffic::Refuse);
    is_reset(&mut old);
    is_reset(&mut connect(&proxy));
    proxy.set(Traffic::Pass);
    echoes(&mut connect(&proxy), b"again");
}

#[test]
fn a_black_hole_holds_everything_until_it_is_mended() {
    let proxy = Proxy::start(server(None));
    let mut old = connect(&proxy);
    echoes(&mut old, b"hello");
    proxy.set(Traffic::Blackhole);
    let mut new = connect(&proxy);
    for stream in [&mut old, &mut new] {
        stream.write_all(b"lost?").expect("sent");
        is_silent(stream);
    }
    proxy.set(Traffic::Pass);
    for stream in [&mut old, &mut new] {
        assert_eq!(read(stream, 5).expect("late"), b"lost?");
    }
}

#[test]
fn one_direction_can_be_held_alone() {
    let proxy = Proxy::start(server(None));
    let mut client = connect(&proxy);
    echoes(&mut client, b"one");
    proxy.set(Traffic::Hold(Direction::ToClient));
    client.write_all(b"two").expect("sent");
    is_silent(&mut client);
    // The server has it, and has answered already: nothing is left to be sent.
    proxy.set(Traffic::Hold(Direction::ToServer));
    assert_eq!(read(&mut client, 3).expect("late"), b"two");
    client.write_all(b"three").expect("sent");
    is_silent(&mut client);
    proxy.set(Traffic::Pass);
    assert_eq!(read(&mut client, 5).expect("late"), b"three");
}

#[test]
fn a_delay_is_one_of_both_ways_and_keeps_the_order() {
    let proxy = Proxy::start(server(None));
    let mut stream = connect(&proxy);
    echoes(&mut stream, b"hello");
    let delay = Duration::from_millis(100);
    proxy.set(Traffic::Delay(delay));
    let began = Instant::now();
    for byte in 0..10 {
        stream.write_all(&[byte]).expect("sent");
    }
    assert_eq!(read(&mut stream, 10).expect("answered"), (0..10).collect::<Vec<u8>>());
    assert!(began.elapsed() >= delay * 2);
}

#[test]
fn what_was_slow_is_fast_again_when_the_traffic_passes() {
    let proxy = Proxy::start(server(None));
    let mut stream = connect(&proxy);
    proxy.set(Traffic::Throttle(1000));
    let began = Instant::now();
    echoes(&mut stream, &[7; 200]);
    assert!(began.elapsed() >= Duration::from_millis(200));
    // At this rate the rest would take nearly two hours.
    proxy.set(Traffic::Throttle(10));
    stream.write_all(&[8; 60_000]).expect("sent");
    is_silent(&mut stream);
    proxy.set(Traffic::Pass);
    assert_eq!(read(&mut stream, 60_000).expect("answered"), [8; 60_000]);
}

#[test]
fn a_cut_comes_after_exactly_so_many_bytes() {
    for direction in [Direction::ToServer, Direction::ToClient] {
        let proxy = Proxy::start(server(None));
        let mut old = connect(&proxy);
        echoes(&mut old, b"hello");
        proxy.set(Traffic::CutAfter { bytes: 7, direction });
        for mut stream in [old, connect(&proxy)] {
            echoes(&mut stream, b"four");
            stream.write_all(b"more").expect("sent");
            if direction == Direction::ToClient {
                assert_eq!(read(&mut stream, 3).expect("a part"), b"mor");
            } else {
                // What the server makes of its part may come, or be overtaken by the reset.
                while stream.read(&mut [0]).is_ok_and(|length| length > 0) {}
                continue;
            }
            is_reset(&mut stream);
        }
        proxy.set(Traffic::Pass);
        echoes(&mut connect(&proxy), b"longer than seven bytes");
    }
}

#[test]
fn a_moved_address_resets_what_is_connected_and_leads_to_the_other_server() {
    let proxy = Proxy::start(server(Some(b'1')));
    let mut old = connect(&proxy);
    old.write_all(b"x").expect("sent");
    assert_eq!(read(&mut old, 1).expect("answered"), b"1");
    proxy.retarget(server(Some(b'2')));
    is_reset(&mut old);
    let mut new = connect(&proxy);
    new.write_all(b"x").expect("sent");
    assert_eq!(read(&mut new, 1).expect("answered"), b"2");
    proxy.reset();
    is_reset(&mut new);
}

#[test]
fn a_forgotten_connection_stays_silent_and_a_new_one_is_heard() {
    let proxy = Proxy::start(server(None));
    let mut old = connect(&proxy);
    echoes(&mut old, b"hello");
    proxy.forget(Kind::Replication);
    echoes(&mut old, b"not its kind");
    proxy.forget(Kind::Ordinary);
    old.write_all(b"hello?").expect("sent");
    is_silent(&mut old);
    echoes(&mut connect(&proxy), b"hello");
    is_silent(&mut old);
}

#[test]
fn barred_is_only_who_comes_now() {
    let proxy = Proxy::start(server(None));
    let mut first = connect(&proxy);
    echoes(&mut first, b"one");
    proxy.bar(true);
    is_reset(&mut connect(&proxy));
    echoes(&mut first, b"two");
    proxy.bar(false);
    echoes(&mut connect(&proxy), b"three");
}

#[test]
fn a_server_that_is_gone_is_a_reset() {
    let gone = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        listener.local_addr().expect("address").port()
    };
    is_reset(&mut connect(&Proxy::start(gone)));
}

#[test]
fn one_kind_of_connection_can_be_harmed_alone() {
    let startup = |fields: &str| {
        let mut packet = (8 + fields.len() as u32).to_be_bytes().to_vec();
        packet.extend(196_608u32.to_be_bytes());
        packet.extend(fields.as_bytes());
        packet
    };
    let replication = startup("user\0a\0replication\0database\0\0");
    let ordinary = startup("user\0a\0\0");
    let proxy = Proxy::start(server(None));
    let (mut first, mut second) = (connect(&proxy), connect(&proxy));
    echoes(&mut first, &replication);
    echoes(&mut second, &ordinary);
    proxy.set_for(Kind::Replication, Traffic::Blackhole);
    first.write_all(b"held").expect("sent");
    is_silent(&mut first);
    echoes(&mut second, b"passes");
    let mut third = connect(&proxy);
    third.write_all(&replication).expect("sent");
    is_silent(&mut third);
    echoes(&mut connect(&proxy), &ordinary);
    proxy.set_for(Kind::Ordinary, Traffic::Refuse);
    is_reset(&mut second);
    proxy.set_for(Kind::Replication, Traffic::Pass);
    assert_eq!(read(&mut first, 4).expect("late"), b"held");
    assert_eq!(read(&mut third, replication.len()).expect("late"), replication);
}

#[test]
fn a_url_leads_through_the_proxy() {
    let proxy = Proxy::start(5432);
    let port = proxy.port();
    assert_eq!(proxy.url("postgres://a@127.0.0.1:5432/app?x=1"), format!("postgres://a@127.0.0.1:{port}/app?x=1"));
    assert_eq!(proxy.url("redis://127.0.0.1:99"), format!("redis://127.0.0.1:{port}"));
}

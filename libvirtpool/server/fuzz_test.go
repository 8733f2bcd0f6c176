package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"sheepdog/libvirtpool/rpc"
)

// frames writes messages as a client sends them.
func frames(list ...*rpc.Message) []byte {
	var b bytes.Buffer
	for _, m := range list {
		_, _ = m.WriteTo(&b)
	}
	return b.Bytes()
}

func message(p rpc.Procedure, t rpc.Type, serial uint32, s rpc.Status, args ...any) *rpc.Message {
	return rpc.NewMessage(rpc.Header{Program: rpc.ProgramRemote, Version: rpc.Version, Procedure: p, Type: t, Serial: serial, Status: s}, encode(args...))
}

// seed adds what clients send, and what they should not.
func seed(f *testing.F) {
	opened := []*rpc.Message{message(rpc.AuthList, rpc.Call, 0, rpc.OK), message(rpc.ConnectOpen, rpc.Call, 1, rpc.OK, null{}, 0)}
	f.Add([]byte{})
	f.Add(append(binary.BigEndian.AppendUint32(nil, 28), make([]byte, 24)...))
	f.Add([]byte{0, 0, 0, 27, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4})
	f.Add(append(binary.BigEndian.AppendUint32(nil, rpc.MaxMessage), 0x20, 0, 0x80, 0x86))
	for _, p := range slices.Sorted(maps.Keys(storageVerbs())) {
		f.Add(frames(append(opened, message(p, rpc.Call, 2, rpc.OK))...))
		f.Add(frames(append(opened, message(p, rpc.Call, 2, rpc.OK, "p", noUUID, "v", 0, 0, 0, 0))...))
		f.Add(frames(append(opened, message(p, rpc.Call, 2, rpc.OK, "p", "v", "p/v", uint64(0), uint64(0), 0))...))
	}
	for p := rpc.Procedure(1); p < 450; p++ {
		if callLayout(p) != "" || replyLayout(p) != "" {
			f.Add(frames(append(opened, message(p, rpc.Call, 2, rpc.OK, "vm", noUUID, 7, domainXML, 0))...))
			f.Add(frames(append(opened, message(p, rpc.Call, 2, rpc.OK, domainXML, 0))...))
		}
	}
	upload := func(rest ...*rpc.Message) []byte {
		begin := message(rpc.VolumeUpload, rpc.Call, 2, rpc.OK, "p", "v", "", uint64(0), uint64(0), 0)
		return frames(append(append(slices.Clone(opened), begin), rest...)...)
	}
	data := message(rpc.VolumeUpload, rpc.Stream, 2, rpc.Continue, []byte("data"))
	f.Add(upload(data, message(rpc.VolumeUpload, rpc.Stream, 2, rpc.OK)))
	f.Add(upload(data, message(rpc.VolumeUpload, rpc.Stream, 2, rpc.Failed)))
	f.Add(upload(message(rpc.VolumeUpload, rpc.StreamHole, 2, rpc.Continue, uint64(1<<63), 0), message(rpc.VolumeUpload, rpc.Stream, 2, rpc.OK)))
	f.Add(upload(message(rpc.VolumeUpload, rpc.Stream, 2, 77), message(rpc.VolumeUpload, rpc.Reply, 2, rpc.OK)))
	f.Add(upload(message(rpc.VolumeUpload, rpc.Stream, 2, rpc.Continue, []byte("QFI\xfb\x00\x00\x00\x03")), message(rpc.VolumeUpload, rpc.Stream, 2, rpc.OK)))
	f.Add(frames(append(opened, message(rpc.ConnectClose, rpc.Call, ownSerials, rpc.OK))...))
}

// Whatever a client sends, the server lives on, serves the next one, and leaves
// nothing of it.
func FuzzSession(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		w := start(t, nil)
		w.pool("p", "v", 1<<10)
		w.throw(in)
		w.dial("").open().must(rpc.PoolIsActive, "p", noUUID)
	})
}

// The same in front of a libvirtd.
func FuzzSessionInFront(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		w, _ := behind(t)
		w.throw(in)
		w.dial("").open().must(rpc.PoolIsActive, "p", noUUID)
	})
}

// throw sends bytes and hangs up.
func (w *world) throw(in []byte) {
	w.t.Helper()
	conn, err := net.Dial("unix", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(testTimeout))
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, conn)
		done <- err
	}()
	_, _ = conn.Write(in)
	_ = conn.(*net.UnixConn).CloseWrite()
	if err := <-done; errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("the server holds on to a client that hung up, for %v", testTimeout)
	}
	conn.Close()
}

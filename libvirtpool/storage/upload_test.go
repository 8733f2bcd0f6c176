package storage_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"sheepdog/libvirtpool/qcow2"
	"sheepdog/libvirtpool/rpc"
	"sheepdog/libvirtpool/storage"
	"sheepdog/libvirtpool/storage/storagetest"
)

// The upload of a qcow2 image ended the whole process when no file could be made for
// its conversion: a full disk, a directory that is not there, or no descriptor left.
func TestUploadWithoutAPlaceForTheImageFails(t *testing.T) {
	c := storagetest.New()
	d, err := storage.New(storage.Config{Store: c, Definitions: c, SpoolDir: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	withPool(t, d)
	if err := c.Create(ctx, "p/v", 4096); err != nil {
		t.Fatal(err)
	}
	u, err := d.Upload(ctx, "p", "v", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Write(ctx, []byte(qcow2.Magic+"rest")); err == nil || !strings.Contains(err.Error(), "--spool") {
		t.Errorf("%v", err)
	}
	u.Abort()
}

func withPool(t *testing.T, d *storage.Driver) {
	t.Helper()
	if _, err := d.CreateXML(t.Context(), "<pool type='sheepdog'><name>p</name></pool>"); err != nil {
		t.Fatal(err)
	}
}

// A copy from another pool was a volume while it was half, and stayed one where
// sheep-libvirt was killed meanwhile.
func TestCopyIsAVolumeWhenItIsComplete(t *testing.T) {
	c := storagetest.New()
	d, err := storage.New(storage.Config{Store: c, Definitions: c})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	withPool(t, d)
	boom := errors.New("boom")
	filled := func(end error) (storage.Volume, error) {
		return d.FilledVolume(ctx, "p", "<volume><name>v</name><capacity>10</capacity></volume>", 8192, func(u *storage.Upload) error {
			if err := u.Write(ctx, []byte("data")); err != nil {
				return err
			}
			list, err := d.Volumes(ctx, "p")
			if err != nil || len(list) != 0 {
				t.Errorf("while it is filled there are %v (%v)", list, err)
			}
			return end
		})
	}
	if _, err := filled(boom); !errors.Is(err, boom) {
		t.Errorf("%v", err)
	}
	if left, err := c.List(ctx); err != nil || len(left) != 0 {
		t.Errorf("after a failure there are %v (%v)", left, err)
	}
	v, err := filled(nil)
	if err != nil || v.VDI.Name != "p/v" || v.VDI.Size != 8192 || !strings.HasPrefix(string(c.Bytes("p/v")), "data") {
		t.Errorf("%+v %v", v, err)
	}
	if _, err := filled(nil); rpc.AsError(err).Code != rpc.CodeVolumeExists {
		t.Errorf("over another one: %v", err)
	}
	if left, err := c.List(ctx); err != nil || len(left) != 1 {
		t.Errorf("in the end there are %v (%v)", left, err)
	}
}

// A host ::1 was shown as <host name=” port=':1'/>.
func TestHostOfAPoolIsShownAsItWasGiven(t *testing.T) {
	for _, host := range []string{"<host name='::1'/>", "<host name='fd00::1' port='7000'/>", "<host name='h'/>", "<host name='h' port='7000'/>"} {
		c := storagetest.New()
		d, err := storage.New(storage.Config{Store: c, Definitions: c})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Define(t.Context(), "<pool type='sheepdog'><name>p</name><source>"+host+"<name>p</name></source></pool>"); err != nil {
			t.Fatal(err)
		}
		if text, err := d.XML(t.Context(), "p", storage.Inactive); err != nil || !strings.Contains(text, host) {
			t.Errorf("%s became\n%s %v", host, text, err)
		}
	}
}

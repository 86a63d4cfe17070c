package pki

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// counting is the secret 00 01 02 … 1f of the reference vectors.
func counting() Secret {
	var s Secret
	for i := range s {
		s[i] = byte(i)
	}
	return s
}

func TestParseSecretSpellings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Secret(rapid.SliceOfN(rapid.Byte(), SecretBytes, SecretBytes).Draw(t, "secret"))
		s[7] |= 1
		for _, text := range []string{
			s.Text(),
			s.Text() + "\n",
			hex.EncodeToString(s[:]),
			strings.ToUpper(hex.EncodeToString(s[:])) + "\r\n",
			base64.RawStdEncoding.EncodeToString(s[:]),
			base64.URLEncoding.EncodeToString(s[:]),
			base64.RawURLEncoding.EncodeToString(s[:]),
		} {
			if got, err := ParseSecret(text); err != nil || got != s {
				t.Fatalf("ParseSecret(%q) = %x, %v", text, got[:], err)
			}
		}
	})
}

func TestParseSecretRefuses(t *testing.T) {
	good := counting().Text()
	for _, c := range []struct{ name, text, want string }{
		{"empty", " \n", "empty"},
		{"two lines", good + "\n" + good, "one line"},
		{"short", base64.StdEncoding.EncodeToString(make([]byte, 31)), "31 bytes"},
		{"long", base64.StdEncoding.EncodeToString(make([]byte, 33)), "33 bytes"},
		{"zero", strings.Repeat("0", 64), "zero"},
		{"words", "correct-horse-battery-staple!", "base64"},
		{"half a hex", hex.EncodeToString(make([]byte, 16)), "24 bytes"},
	} {
		_, err := ParseSecret(c.text)
		if !errors.Is(err, ErrSecret) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that says %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), strings.TrimSpace(c.text)) && c.name != "empty" {
			t.Errorf("%s: the error repeats the text", c.name)
		}
	}
}

func TestSecretHidesItself(t *testing.T) {
	s := counting()
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("start", "secret", s)
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%x %v %+v %#v %s", s, s, s, s, s), log.String()} {
		if strings.Contains(text, "0102") || strings.Contains(text, "1 2 3") || !strings.Contains(text, "[hidden]") {
			t.Errorf("secret shows in %q", text)
		}
	}
}

func TestWriteSecretThenLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	s := NewSecret()
	if err := WriteSecret(path, s); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || unixModes && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if got, err := LoadSecret(path); err != nil || got != s {
		t.Errorf("LoadSecret = %x, %v; want what was written", got[:], err)
	}
	if err := WriteSecret(path, NewSecret()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second WriteSecret: %v, want fs.ErrExist", err)
	}
	if got, _ := LoadSecret(path); got != s {
		t.Error("the second WriteSecret changed the file")
	}
}

func TestLoadSecretRefusesFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadSecret(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := LoadSecret(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("folder: %v", err)
	}
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, make([]byte, maxSecretFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSecret(long); !errors.Is(err, ErrSecret) || !strings.Contains(err.Error(), "longer") {
		t.Errorf("long file: %v", err)
	}
	if !unixModes {
		return
	}
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte(counting().Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadSecret(open); err == nil || !strings.Contains(err.Error(), "chmod 600 "+open) {
		t.Errorf("world-readable file: %v, want a sentence that names chmod", err)
	}
}

func TestSecretFileModes(t *testing.T) {
	if !unixModes {
		t.Skip("no Unix permissions here")
	}
	for _, c := range []struct {
		mode                fs.FileMode
		rootOwned, readOnly bool
		ok                  bool
	}{
		{mode: 0o600, ok: true},
		{mode: 0o400, ok: true},
		{mode: 0o440, rootOwned: true, ok: true},
		{mode: 0o640, ok: true},
		{mode: 0o660},
		{mode: 0o644},
		{mode: 0o604, rootOwned: true},
		{mode: 0o644, rootOwned: true},
		{mode: 0o444, rootOwned: true, ok: true}, // a Docker secret
		{mode: 0o444},
		{mode: 0o444, readOnly: true, ok: true},
		{mode: 0o644, readOnly: true, ok: true}, // a Compose file secret
		{mode: 0o666, readOnly: true},
		{mode: 0o777, rootOwned: true, readOnly: true},
	} {
		err := checkMode("/f", c.mode, c.rootOwned, c.readOnly)
		if (err == nil) != c.ok {
			t.Errorf("mode %04o, owned by root %v, read-only mount %v: %v", c.mode, c.rootOwned, c.readOnly, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod 600 /f") {
			t.Errorf("mode %04o: %q does not say what to run", c.mode, err)
		}
	}
}

package vision

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/shoal-llm/shoal/internal/golden"
)

func clip() Preprocess {
	return Preprocess{Size: 56, Crop: 56,
		Mean: [3]float32{0.48145466, 0.4578275, 0.40821073}, Std: [3]float32{0.26862954, 0.26130258, 0.27577711}}
}

func TestFixturePixelValues(t *testing.T) {
	var g struct {
		Images []struct {
			File   string
			Values golden.Tensor `json:"pixel_values"`
		}
	}
	golden.JSON(t, "llava/golden.json", &g)
	if len(g.Images) == 0 {
		t.Fatal("no images")
	}
	p := clip()
	for _, img := range g.Images {
		data, err := os.ReadFile(filepath.Join(golden.Dir(t), "llava", img.File))
		if err != nil {
			t.Fatal(err)
		}
		pic, err := Decode(data, DefaultLimits())
		if err != nil {
			t.Fatalf("%s: %v", img.File, err)
		}
		got, want := p.Values(pic), img.Values.Float32(t)
		if len(want) != len(got) {
			t.Fatalf("%s: %d values, want %d", img.File, len(got), len(want))
		}
		worst, off := 0.0, 0
		for i, v := range got {
			d := math.Abs(float64(v-want[i])) * float64(p.Std[i/(len(got)/3)])
			worst = max(worst, d)
			if d > 0.5/255 {
				off++
			}
		}
		t.Logf("%s: worst %.3g before normalisation, %d of %d a step off", img.File, worst, off, len(got))
		if worst > 1e-6 {
			t.Errorf("%s: %g off before normalisation", img.File, worst)
		}
	}
}

func pngOf(t *testing.T, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// hugePNG claims a size in its header and holds nothing.
func hugePNG(width, height uint32) []byte {
	head := binary.BigEndian.AppendUint32([]byte("IHDR"), width)
	head = append(binary.BigEndian.AppendUint32(head, height), 8, 6, 0, 0, 0)
	out := append([]byte("\x89PNG\r\n\x1a\n"), 0, 0, 0, 13)
	out = append(out, head...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(head))
}

func TestDecodeRefusesWithoutAllocating(t *testing.T) {
	good := pngOf(t, image.NewGray(image.Rect(0, 0, 64, 64)))
	webp := append([]byte("RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x02\x00\x00\x00"), make([]byte, 6)...)
	// A canvas of 8×8 and a lossless frame of 16384×16384.
	hidden := []byte("RIFF\x2a\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x07\x00\x00VP8L\x0a\x00\x00\x00\x2f\xff\xff\xff\x0f\x00\x00\x00\x00\x00")
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"huge", hugePNG(60000, 60000), ErrPixels},
		{"largest header", hugePNG(1<<31-1, 1<<31-1), nil}, // refused by the decoder or by us
		{"long and narrow", hugePNG(1<<20, 2), ErrProportion},
		{"truncated", good[:len(good)-20], ErrDamaged},
		{"header cut", good[:20], ErrDamaged},
		{"1×1", pngOf(t, image.NewGray(image.Rect(0, 0, 1, 1))), ErrSmall},
		{"WebP larger than its canvas", hidden, ErrPixels},
		{"the same cut short", append(append([]byte("RIFF\xff\xff\xff\x7f"), hidden[8:34]...), append([]byte("\xff\xff\xff\x00"), hidden[38:]...)...), ErrPixels},
		{"animated WebP", webp, ErrAnimated},
		{"wrong type", []byte("%PDF-1.7 and no picture"), ErrFormat},
		{"empty", nil, ErrFormat},
		{"50 MB", make([]byte, 50<<20), ErrBytes},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode(c.data, DefaultLimits())
		runtime.ReadMemStats(&after)
		if c.want != nil && !errors.Is(err, c.want) || !Refused(err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", c.name, grown)
		}
	}
}

func TestDecodeOddKinds(t *testing.T) {
	box := image.Rect(0, 0, 8, 8)
	deep, clear := image.NewNRGBA64(box), image.NewNRGBA(box)
	for i := range 64 {
		deep.SetNRGBA64(i%8, i/8, color.NRGBA64{R: 0x12ff, G: 0x8000, B: 0xff00, A: 0xffff})
		clear.SetNRGBA(i%8, i/8, color.NRGBA{R: 18, G: 128, B: 255})
	}
	animated := &gif.GIF{Delay: []int{1, 1}}
	for i := range 2 {
		frame := image.NewPaletted(box, color.Palette{color.RGBA{18, 128, 255, 255}, color.White})
		for j := range frame.Pix {
			frame.Pix[j] = byte(i)
		}
		animated.Image = append(animated.Image, frame)
	}
	var moving bytes.Buffer
	if err := gif.EncodeAll(&moving, animated); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"16 bit": pngOf(t, deep), "clear": pngOf(t, clear), "animated GIF": moving.Bytes()} {
		pic, err := Decode(data, DefaultLimits())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := pic.Pix[:3]; !bytes.Equal(got, []byte{18, 128, 255}) {
			t.Errorf("%s: colour %v", name, got)
		}
	}
}

// TestDecodeFiles: pictures that another library wrote have its colours, within what
// lossy formats allow.
func TestDecodeFiles(t *testing.T) {
	for name, most := range map[string]int{"cmyk.jpg": 3, "lossless.webp": 0, "lossy.webp": 24} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		pic, err := Decode(data, DefaultLimits())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for x, want := range map[int][3]int{2: {18, 128, 255}, 13: {240, 30, 60}} {
			for c, w := range want {
				if d := int(pic.Pix[3*(2*pic.Width+x)+c]) - w; d > most || -d > most {
					t.Errorf("%s: channel %d at %d is %d off", name, c, x, d)
				}
			}
		}
	}
	data, err := os.ReadFile(filepath.Join("testdata", "animated.webp"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(data, DefaultLimits()); !errors.Is(err, ErrAnimated) {
		t.Errorf("animated WebP: %v", err)
	}
}

// exif is a TIFF with the orientation alone.
func exif(o int) []byte {
	return []byte{'I', 'I', '*', 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, byte(o), 0, 0, 0, 0, 0, 0, 0}
}

// TestOrientation compares with where Exif says row 0 and column 0 belong.
func TestOrientation(t *testing.T) {
	want := [9]string{"", "abcdef", "cbafed", "fedcba", "defabc", "adbecf", "daebfc", "fcebda", "cfbead"}
	for o := 1; o <= 8; o++ {
		p := &RGB{Width: 3, Height: 2}
		for _, c := range []byte("abcdef") {
			p.Pix = append(p.Pix, c, c, c)
		}
		turned := upright(p, o)
		var got []byte
		for i := 0; i < len(turned.Pix); i += 3 {
			got = append(got, turned.Pix[i])
		}
		if string(got) != want[o] || (turned.Width == 2) != (o >= 5) {
			t.Errorf("orientation %d: %s, want %s", o, got, want[o])
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, 16, 8)), nil); err != nil {
		t.Fatal(err)
	}
	body := append([]byte("Exif\x00\x00"), exif(6)...)
	segment := append(binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(len(body)+2)), body...)
	tagged := append(append([]byte{0xff, 0xd8}, segment...), b.Bytes()[2:]...)
	if pic, err := Decode(tagged, DefaultLimits()); err != nil || pic.Width != 8 || pic.Height != 16 {
		t.Errorf("JPEG: %v %v", pic, err)
	}
	plain := pngOf(t, image.NewGray(image.Rect(0, 0, 16, 8)))
	part := append(binary.BigEndian.AppendUint32(nil, 26), append([]byte("eXIf"), exif(6)...)...)
	part = binary.BigEndian.AppendUint32(part, crc32.ChecksumIEEE(part[4:]))
	if pic, err := Decode(append(append(bytes.Clone(plain[:33]), part...), plain[33:]...), DefaultLimits()); err != nil || pic.Width != 8 {
		t.Errorf("PNG: %v %v", pic, err)
	}
}

func TestResizeKeepsFlat(t *testing.T) {
	for _, size := range [][2]int{{3, 5}, {57, 200}, {640, 480}} {
		p := &RGB{Width: size[0], Height: size[1], Pix: bytes.Repeat([]byte{7, 130, 255}, size[0]*size[1])}
		if got := clip().Square(p); !bytes.Equal(got.Pix, bytes.Repeat([]byte{7, 130, 255}, 56*56)) {
			t.Errorf("%v: a flat picture changed", size)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(hugePNG(9, 9))
	f.Add([]byte("\xff\xd8\xff\xe1\x00\x10Exif\x00\x00II*\x00\x08\x00\x00\x00"))
	f.Add([]byte("RIFF\x1e\x00\x00\x00WEBPVP8 \x0a\x00\x00\x00"))
	f.Add([]byte("GIF89a\x02\x00\x02\x00"))
	limits := Limits{Bytes: 1 << 16, Pixels: 1 << 16, MinSide: 1, Proportion: 100}
	f.Fuzz(func(t *testing.T, data []byte) {
		pic, err := Decode(data, limits)
		if err != nil && !Refused(err) {
			t.Fatal(err)
		}
		if err == nil && len(pic.Pix) != 3*pic.Width*pic.Height {
			t.Fatal(fmt.Sprint(pic.Width, pic.Height, len(pic.Pix)))
		}
	})
}

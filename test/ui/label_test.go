// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"bytes"
	"image/color"
	"image/png"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// TestLabelsAreNotStruckThrough looks at what is behind the letters of a label that lies along its line.
func TestLabelsAreNotStruckThrough(t *testing.T) {
	b := open(t, newWorld(t).page, 1280, 720, scheme("light"))
	b.do(`[...document.querySelectorAll("#map [data-key]")].find((x) => x.dataset.key === "M2MClient/shop/cart").dispatchEvent(new MouseEvent("mouseenter"))`)
	is(b, `document.querySelector(".label").textContent`, "payments:write")
	b.do(`document.querySelector(".label").style.fill = "transparent"`)
	box := value[struct{ X, Y, Width, Height float64 }](b, `(({ x, y, width, height }) => ({ x, y, width, height }))(document.querySelector(".label").getBoundingClientRect())`)
	got, err := chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{
		Clip: &page.Viewport{X: box.X, Y: box.Y, Width: box.Width, Height: box.Height, Scale: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(got.Data))
	if err != nil {
		t.Fatal(err)
	}
	if picture.Bounds().Dx() < 50 || picture.Bounds().Dy() < 10 {
		t.Fatalf("the label is at %+v", box)
	}
	seen := map[color.Color]int{}
	for y := range picture.Bounds().Dy() {
		for x := range picture.Bounds().Dx() {
			seen[color.RGBAModel.Convert(picture.At(x, y))]++
		}
	}
	if len(seen) != 1 {
		t.Errorf("behind the label are %d colours: %v", len(seen), seen)
	}
}

// TestSelectsShowNames: the namespace select has room for a name of 30 letters, beside a panel too, and does not cut
// one that is longer in the middle of a letter.
func TestSelectsShowNames(t *testing.T) {
	for _, width := range []int64{360, 1000, 1360, 2560} {
		b := open(t, newWorld(t).page+"#M2MClient/shop/cart", width, 800)
		room := value[float64](b, `((s) => {
			const ruler = document.createElement("canvas").getContext("2d");
			ruler.font = getComputedStyle(s).font;
			return s.clientWidth - ruler.measureText("payments-and-refunds-production").width;
		})(document.getElementById("namespace"))`)
		if room < 40 { // what surrounds the text, with the arrow
			t.Errorf("at %d pixels, %.0f are left", width, room)
		}
		is(b, `getComputedStyle(document.getElementById("namespace")).textOverflow`, "ellipsis")
	}
}

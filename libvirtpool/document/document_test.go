package document

import (
	"encoding/xml"
	"strings"
	"testing"
)

// What Python writes, <?xml version='1.0' encoding='ASCII'?>, was refused, or passed on
// with its disks as they were.
func TestEncodingsThatArePartsOfUTF8(t *testing.T) {
	for head, ok := range map[string]bool{
		"": true, "<?xml version='1.0' encoding='ASCII'?>": true, "<?xml version='1.0' encoding='us-ascii'?>\n": true,
		"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>": true, "<?xml version='1.0' encoding='utf8'?>": true,
		"<?xml version='1.0' encoding='UTF-16'?>": false,
	} {
		var doc struct {
			XMLName xml.Name
			Name    string `xml:"name"`
		}
		err := Unmarshal(head+"<pool><name>x</name></pool>", &doc)
		if (err == nil) != ok || ok && doc.Name != "x" || !ok && !strings.Contains(err.Error(), "UTF-8") {
			t.Errorf("%s: %+v %v", head, doc, err)
		}
	}
	for _, text := range []string{"<?xml version='1.0' encoding='ASCII'?><a>\u00e4</a>", "<?xml version='1.0' encoding='latin1'?><a>\xe4</a>"} {
		if err := Unmarshal(text, new(struct{ XMLName xml.Name })); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestOffsetsAreThoseOfTheText(t *testing.T) {
	text := "<?xml version='1.0' encoding='ASCII'?>\n<a><b/></a>"
	d := NewDecoder(text)
	for {
		at := d.InputOffset()
		token, err := d.RawToken()
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "b" {
			if !strings.HasPrefix(text[at:], "<b/>") {
				t.Errorf("<b/> is said to be at %d", at)
			}
			return
		}
	}
}

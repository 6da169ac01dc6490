package cases

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// SeedConfigurations starts a fuzz target off with the table's configurations, a label on each line.
func SeedConfigurations(f *testing.F) {
	f.Helper()
	for _, c := range All {
		f.Add(strings.Join(c.Labels, "\n"))
	}
}

// Labels reads what SeedConfigurations writes, and what has become of it.
func Labels(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return !strings.Contains(line, "=") })
}

// CheckNew holds what New has made of any configuration to what it promises, and returns it as text.
// The documents are those that have no options of their own.
func CheckNew(t *testing.T, documents map[string]any, handler http.Handler, err error) string {
	t.Helper()
	if err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			require.NotContains(t, line, "please report it")
			require.Contains(t, line, ": ")
			require.Equal(t, -1, strings.IndexFunc(line, unicode.IsControl), "%q", line)
		}
		return err.Error()
	}
	names := []string{"server", "client", "support", "policy_server"}
	for name := range documents {
		names = append(names, name)
	}
	slices.Sort(names)
	text := ""
	for _, name := range names {
		request := httptest.NewRequest(http.MethodGet, "/", nil)
		request.URL.Path = dir + name
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, request)
		text += fmt.Sprintln(name, response.Code, response.Header(), response.Body)
		if response.Code != http.StatusOK {
			continue
		}
		var content map[string]any
		decoder := json.NewDecoder(strings.NewReader(response.Body.String()))
		decoder.UseNumber() // clientExtra's numbers can have any size
		require.NoError(t, decoder.Decode(&content), "%s", response.Body)
		require.True(t, json.Valid(response.Body.Bytes()))
		require.NotNil(t, content)
		if check := shapes[name]; check != nil {
			require.NoError(t, check(content), "%s", response.Body)
		}
	}
	require.Contains(t, text, "200", "accepted, and nothing is served")
	return text
}

// shapes are the documents that the Matrix specification and its proposals describe.
var shapes = map[string]func(map[string]any) error{
	"server": func(content map[string]any) error { return only(content, "m.server") },
	"client": func(content map[string]any) error {
		for _, key := range []string{"m.homeserver", "m.identity_server"} { // other keys can be the user's own
			value, ok := content[key]
			if !ok && key != "m.homeserver" {
				continue
			}
			object, _ := value.(map[string]any)
			if url, _ := object["base_url"].(string); key == "m.homeserver" && !strings.HasPrefix(url, "http") || url == "" {
				return fmt.Errorf("%s has no base_url", key)
			}
		}
		return nil
	},
	"support": func(content map[string]any) error {
		if err := only(content, "support_page", "contacts"); err != nil {
			return err
		}
		contacts, _ := content["contacts"].([]any)
		for _, contact := range contacts {
			object, _ := contact.(map[string]any)
			if err := only(object, "role", "email_address", "matrix_id", "dev.zirco.msc4439.pgp_key"); err != nil {
				return err
			}
			if object["role"] == nil || object["email_address"] == nil && object["matrix_id"] == nil {
				return fmt.Errorf("half a contact: %v", object)
			}
		}
		return nil
	},
	"policy_server": func(content map[string]any) error {
		keys, _ := content["public_keys"].(map[string]any)
		text, _ := keys["ed25519"].(string)
		key, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(text))
		if err == nil && len(key) != 32 {
			err = fmt.Errorf("%d bytes", len(key))
		}
		return err
	},
}

// only finds members that are empty, and members that there should not be.
func only(content map[string]any, members ...string) error {
	if len(content) == 0 {
		return fmt.Errorf("none of %v", members)
	}
	for key, value := range content {
		if list, ok := value.([]any); !slices.Contains(members, key) || value == nil || value == "" || ok && len(list) == 0 {
			return fmt.Errorf("%q: %v", key, value)
		}
	}
	return nil
}

// Delegated is the configuration that requests are tried with.
var Delegated = []string{"server=matrix.example.com:443", "client=https://matrix.example.com", "supportEmail=admin@example.com"}

// SeedRequests starts a fuzz target off with the table's requests, as they are sent.
func SeedRequests(f *testing.F) {
	f.Helper()
	for _, c := range All {
		for _, e := range c.Exchanges {
			f.Add(e.text("example.com"))
		}
	}
}

// CheckRequest holds what becomes of any request to what is promised, and returns it as text.
func CheckRequest(t *testing.T, handler http.Handler, text string) string {
	t.Helper()
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		return ""
	}
	response := httptest.NewRecorder()
	handler.ServeHTTP(response, request)
	origins, body := response.Header()["Access-Control-Allow-Origin"], response.Body.String()
	what := fmt.Sprint(response.Code, response.Header(), body)
	if response.Header().Get("X-Echo") != "" {
		require.Equal(t, http.StatusMultiStatus, response.Code)
		require.Empty(t, origins, what)
		return what
	}
	require.True(t, strings.HasPrefix(request.URL.Path, dir), what)
	require.Equal(t, []string{"*"}, origins, what)
	require.Equal(t, []string{"nosniff"}, response.Header()["X-Content-Type-Options"], what)
	bodies := map[int][]string{
		http.StatusOK: {
			`{"m.server":"matrix.example.com:443"}`,
			`{"m.homeserver":{"base_url":"https://matrix.example.com/"},"org.matrix.msc3575.proxy":{"url":"https://matrix.example.com/"}}`,
			`{"contacts":[{"email_address":"admin@example.com","role":"m.role.admin"}]}`,
		},
		http.StatusNoContent:        {""},
		http.StatusNotModified:      {""},
		http.StatusNotFound:         {`{"errcode":"M_NOT_FOUND","error":"There is no such document here."}`},
		http.StatusMethodNotAllowed: {`{"errcode":"M_UNRECOGNIZED","error":"This document can only be read: use GET."}`},
	}
	assert.Contains(t, bodies[response.Code], body, what)
	return what
}

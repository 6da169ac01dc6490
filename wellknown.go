// Package wellknown is a Traefik middleware plugin for Matrix delegation. It answers
// /.well-known/matrix/* from its own configuration and forwards every other request untouched.
//
// Traefik interprets it with Yaegi. Whatever a request needs is therefore made in New.
package wellknown

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Config holds the options. An option is named like its field, with a small first letter; one that
// is empty is not set. The first paragraph at each field is its row in the README's table.
type Config struct {
	// Where other servers reach yours, as host and port (`matrix.example.com:443`):
	// `m.server` of the `server` document.
	//
	// A Matrix server name; IPv6 in brackets. Spec: Server-Server API, GET /.well-known/matrix/server.
	Server string

	// Lets `server` have no port, for a delegation whose port is in an SRV record.
	//
	// Spec: Server-Server API, resolving server names, steps 3.3 and 3.4.
	ServerWithoutPort bool

	// Where clients reach your server (`https://matrix.example.com`):
	// `m.homeserver.base_url` of the `client` document.
	//
	// An http(s) URL without user, query and fragment, written as the WHATWG URL standard serialises
	// it. Spec: Client-Server API, GET /.well-known/matrix/client.
	Client string

	// Adds `org.matrix.msc3575.proxy` with the URL of `client` to the `client` document,
	// for clients that look for sliding sync there.
	//
	// MSC3575.
	SlidingSync bool

	// Identity server (URL): `m.identity_server.base_url` of the `client` document.
	//
	// As for Client. Needs Client.
	IdentityServer string

	// LiveKit services for calls (URLs, separated by commas without spaces):
	// `org.matrix.msc4143.rtc_foci` of the `client` document.
	//
	// Written as given. Needs Client. MSC4143, MSC4195.
	Livekit []string

	// More keys for the `client` document, as one JSON object:
	// `{"io.element.e2ee":{"force_disable":true}}`.
	//
	// Its keys have a namespace, and none is one that an option writes. Needs Client.
	ClientExtra any // JSON in a string; any, so that a map written here is explained by New

	// Page with help for your users (`https:` or `mailto:` URL):
	// `support_page` of the `support` document.
	//
	// Spec: Client-Server API, GET /.well-known/matrix/support.
	SupportPage string

	// Role of the contact: `m.role.admin`, `m.role.security`, or one in a namespace of your own.
	//
	// Says something only beside SupportEmail or SupportMxid.
	SupportRole string

	// Email address of the contact in the `support` document.
	SupportEmail string

	// Matrix ID of the contact in the `support` document (`@admin:example.com`).
	SupportMxid string

	// Address of the contact's PGP key (URI): `https://…` or `openpgp4fpr:…`.
	//
	// MSC4439.
	SupportPgpKey string

	// Further contacts, after that one, in order.
	SupportContacts []Contact

	// Public key of your policy server (ed25519, base64 without padding): the `policy_server` document.
	//
	// 32 bytes, standard or URL-safe alphabet. MSC4284.
	PolicyServerPublicKey string

	// Any further document, as one JSON object: `documents.mautrix={"fi.mau.bridges":[]}`
	// is served at `/.well-known/matrix/mautrix`.
	Documents map[string]any // JSON in strings, as for ClientExtra

	// How many seconds clients and other servers may keep a document, from 0 (they ask again
	// each time) to 172800.
	//
	// RFC 9111, Cache-Control: max-age. Servers keep m.server no longer than 48 hours.
	CacheMaxAge int

	// Nothing Matrix is behind this router (`noop@internal`): a path under `/.well-known/matrix/`
	// that has no document gets 404 instead of being forwarded.
	Standalone bool

	// Unknown receives the options that do not exist, which Traefik would drop without a word.
	Unknown map[string]any `mapstructure:",remain"`
}

// Contact is one entry of SupportContacts. It needs an email address or a Matrix ID.
type Contact struct {
	// As `supportRole`.
	Role string
	// As `supportEmail`.
	Email string
	// As `supportMxid`.
	Mxid string
	// As `supportPgpKey`.
	PgpKey string

	// Unknown is as in Config.
	Unknown map[string]any `mapstructure:",remain"`
}

// CreateConfig returns the defaults.
func CreateConfig() *Config {
	return &Config{
		SlidingSync: true,
		SupportRole: roleAdmin,
		CacheMaxAge: 3600,
	}
}

const (
	prefix = "/.well-known/matrix/"

	// maxCacheMaxAge is what servers cap at: 48 hours (Server-Server API, resolving server names).
	maxCacheMaxAge = 172800

	roleAdmin    = "m.role.admin"
	roleSecurity = "m.role.security"

	keyHomeserver     = "m.homeserver"
	keySlidingSync    = "org.matrix.msc3575.proxy"
	keyIdentityServer = "m.identity_server"
	keyFoci           = "org.matrix.msc4143.rtc_foci"
	keyFociStable     = "m.rtc_foci"
	keyTiles          = "m.tile_server"
	keyTilesUnstable  = "org.matrix.msc3488.tile_server"
)

// New returns the middleware. Its error has one line for each problem of the configuration.
func New(_ context.Context, next http.Handler, config *Config, _ string) (handler http.Handler, err error) {
	// A panic here would end all further reconfiguration of Traefik.
	defer func() {
		if r := recover(); r != nil {
			handler, err = nil, fmt.Errorf("wellknown: a bug in the plugin, please report it: %v", r)
		}
	}()

	documents, err := build(config)
	if err != nil {
		return nil, err
	}
	if config.Standalone {
		next = notFoundBelowPrefix(next)
	}
	known := map[string]bool{}
	mux := http.NewServeMux()
	for path, document := range documents {
		known[path] = true
		mux.HandleFunc("GET "+path, get(document)) // and HEAD
		mux.HandleFunc("OPTIONS "+path, preflight)
		mux.HandleFunc(path, methodNotAllowed)
	}
	mux.Handle("/", next) // the path had a %2F, which is not a slash

	// Every Matrix request passes here. Yaegi makes room, at each call of a function, for whatever
	// is written in it, so this one has nothing that is not needed to forward. It can't be left to
	// the mux, which is compiled: it redirects paths such as //. See demo/bench/README.md.
	return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if known[req.URL.Path] {
			mux.ServeHTTP(rw, req)
			return
		}
		next.ServeHTTP(rw, req)
	}), nil
}

// notFoundBelowPrefix answers 404 where a homeserver would have.
func notFoundBelowPrefix(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.EscapedPath(), prefix) {
			refuse(rw, http.StatusNotFound, notFoundBody)
			return
		}
		next.ServeHTTP(rw, req)
	})
}

// Header values that never change; servers only read them.
var (
	anyOrigin      = []string{"*"}
	nosniff        = []string{"nosniff"}
	contentType    = []string{"application/json"}
	noStore        = []string{"no-store"}
	allowedMethods = []string{"GET, HEAD, OPTIONS"}
	allowedHeaders = []string{"X-Requested-With, Content-Type, Authorization"}
	preflightAge   = []string{"86400"}

	methodNotAllowedBody = []byte(`{"errcode":"M_UNRECOGNIZED","error":"This document can only be read: use GET."}`)
	notFoundBody         = []byte(`{"errcode":"M_NOT_FOUND","error":"There is no such document here."}`)
)

// document is an answer, ready to be sent.
type document struct {
	body         []byte
	length       []string
	etag         []string
	cacheControl []string
}

// get serves a document; the server keeps the body to itself if the method is HEAD.
// Headers are assigned, not added: one that is there already is not sent twice.
func get(d *document) http.HandlerFunc {
	body, length, etag, cacheControl := d.body, d.length, d.etag, d.cacheControl // cheaper than fields, in Yaegi
	return func(rw http.ResponseWriter, req *http.Request) {
		header := rw.Header()
		header["Access-Control-Allow-Origin"] = anyOrigin
		header["X-Content-Type-Options"] = nosniff
		header["Cache-Control"] = cacheControl
		header["Etag"] = etag
		if req.Header["If-None-Match"] != nil && matches(req, etag) {
			rw.WriteHeader(http.StatusNotModified)
			return
		}
		header["Content-Type"] = contentType
		header["Content-Length"] = length
		_, _ = rw.Write(body)
	}
}

// matches tells whether If-None-Match names the ETag, by weak comparison (RFC 9110, 13.1.2).
func matches(req *http.Request, etag []string) bool {
	for _, item := range strings.Split(strings.Join(req.Header["If-None-Match"], ","), ",") {
		item = strings.TrimPrefix(strings.TrimSpace(item), "W/")
		if item == etag[0] || item == "*" {
			return true
		}
	}
	return false
}

// preflight tells a browser that pages of every origin may read (Fetch standard, CORS-preflight request).
func preflight(rw http.ResponseWriter, _ *http.Request) {
	header := rw.Header()
	header["Access-Control-Allow-Origin"] = anyOrigin
	header["X-Content-Type-Options"] = nosniff
	header["Access-Control-Allow-Methods"] = allowedMethods
	header["Access-Control-Allow-Headers"] = allowedHeaders
	header["Access-Control-Max-Age"] = preflightAge
	rw.WriteHeader(http.StatusNoContent)
}

func methodNotAllowed(rw http.ResponseWriter, _ *http.Request) {
	rw.Header()["Allow"] = allowedMethods
	refuse(rw, http.StatusMethodNotAllowed, methodNotAllowedBody)
}

// refuse sends a Matrix error (Client-Server API, standard error response) that nobody may keep.
func refuse(rw http.ResponseWriter, status int, body []byte) {
	header := rw.Header()
	header["Access-Control-Allow-Origin"] = anyOrigin
	header["X-Content-Type-Options"] = nosniff
	header["Cache-Control"] = noStore
	header["Content-Type"] = contentType
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	rw.WriteHeader(status)
	_, _ = rw.Write(body)
}

// build returns the documents by their paths.
func build(config *Config) (map[string]*document, error) {
	b := &builder{}
	contents := map[string]map[string]any{
		"server":        b.server(config),
		"client":        b.client(config),
		"support":       b.support(config),
		"policy_server": b.policyServer(config),
	}
	for _, name := range sortedKeys(config.Documents) {
		contents[name] = b.further(name, config.Documents[name])
	}
	cacheControl := b.cacheControl(config.CacheMaxAge)
	b.unknown(config)

	documents := map[string]*document{}
	for name, content := range contents {
		if content != nil {
			documents[prefix+name] = newDocument(content, cacheControl)
		}
	}
	if len(documents) == 0 && len(b.problems) == 0 {
		b.problem("no option says what to serve: set at least one, for example server=matrix.example.com:443")
	}
	if len(b.problems) > 0 {
		return nil, errors.New(strings.Join(b.problems, "\n"))
	}
	return documents, nil
}

func newDocument(content map[string]any, cacheControl string) *document {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(content); err != nil { // sorts the keys of maps
		panic(err)
	}
	body := bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
	sum := sha256.Sum256(body)
	return &document{
		body:         body,
		length:       []string{strconv.Itoa(len(body))},
		etag:         []string{`"` + hex.EncodeToString(sum[:16]) + `"`},
		cacheControl: []string{cacheControl},
	}
}

// builder makes the content of each document and collects what is wrong with the options on the way.
// A document without options is nil.
type builder struct {
	problems []string
}

func (b *builder) server(config *Config) map[string]any {
	if config.Server == "" {
		return nil
	}
	b.checkServer(config.Server, config.ServerWithoutPort)
	return map[string]any{"m.server": config.Server}
}

func (b *builder) client(config *Config) map[string]any {
	content := map[string]any{}
	writtenBy := map[string]string{} // option by key
	if config.Client != "" {
		base := b.baseURL("client", config.Client)
		content[keyHomeserver] = map[string]any{"base_url": base}
		writtenBy[keyHomeserver] = "client"
		if config.SlidingSync {
			content[keySlidingSync] = map[string]any{"url": base}
			writtenBy[keySlidingSync] = "slidingSync"
		}
	}
	if config.IdentityServer != "" {
		content[keyIdentityServer] = map[string]any{"base_url": b.baseURL("identityServer", config.IdentityServer)}
		writtenBy[keyIdentityServer] = "identityServer"
	}
	if len(config.Livekit) > 0 {
		foci := []any{}
		for _, service := range config.Livekit {
			b.checkLivekit(service)
			foci = append(foci, map[string]any{"type": "livekit", "livekit_service_url": service})
		}
		content[keyFoci] = foci
		writtenBy[keyFoci] = "livekit"
	}
	extra := b.object("clientExtra", config.ClientExtra)
	b.checkExtra(extra, writtenBy)
	for key, value := range extra {
		content[key] = value
	}

	if config.Client == "" {
		b.checkNeedsClient("identityServer", config.IdentityServer)
		b.checkNeedsClient("livekit", strings.Join(config.Livekit, ","))
		b.checkNeedsClient("clientExtra", config.ClientExtra)
		return nil
	}
	return content
}

func (b *builder) support(config *Config) map[string]any {
	content := map[string]any{}
	if config.SupportPage != "" {
		b.checkSupportPage(config.SupportPage)
		content["support_page"] = config.SupportPage
	}
	contacts := []any{}
	first := Contact{Role: config.SupportRole, Email: config.SupportEmail, Mxid: config.SupportMxid, PgpKey: config.SupportPgpKey}
	b.checkContact("supportRole", "supportEmail", "supportMxid", "supportPgpKey", first)
	if first.Email != "" || first.Mxid != "" {
		contacts = append(contacts, contactContent(first))
	} else if first.PgpKey != "" {
		b.reject("supportPgpKey", first.PgpKey, "is the key of a contact that has neither an email address nor a Matrix ID; add supportEmail=admin@example.com or supportMxid=@admin:example.com")
	}
	for i, contact := range config.SupportContacts {
		option := fmt.Sprintf("supportContacts[%d].", i)
		b.checkContact(option+"role", option+"email", option+"mxid", option+"pgpKey", contact)
		if contact.Email == "" && contact.Mxid == "" {
			b.problem(fmt.Sprintf("supportContacts[%d]: has neither an email address nor a Matrix ID; write %semail=admin@example.com or %smxid=@admin:example.com", i, option, option))
		}
		contacts = append(contacts, contactContent(contact))
	}
	if len(contacts) > 0 {
		content["contacts"] = contacts
	}
	if len(content) == 0 {
		return nil
	}
	return content
}

func contactContent(contact Contact) map[string]any {
	content := map[string]any{"role": roleAdmin}
	if contact.Role != "" {
		content["role"] = contact.Role
	}
	if contact.Email != "" {
		content["email_address"] = contact.Email
	}
	if contact.Mxid != "" {
		content["matrix_id"] = contact.Mxid
	}
	if contact.PgpKey != "" {
		content["dev.zirco.msc4439.pgp_key"] = contact.PgpKey
	}
	return content
}

func (b *builder) policyServer(config *Config) map[string]any {
	if config.PolicyServerPublicKey == "" {
		return nil
	}
	b.checkPublicKey(config.PolicyServerPublicKey)
	return map[string]any{"public_keys": map[string]any{"ed25519": config.PolicyServerPublicKey}}
}

func (b *builder) further(name string, value any) map[string]any {
	b.checkDocumentName(name)
	return b.object("documents."+escape(name), value)
}

func (b *builder) cacheControl(maxAge int) string {
	b.checkMaxAge(maxAge)
	if maxAge == 0 {
		return "no-cache"
	}
	return "public, max-age=" + strconv.Itoa(maxAge)
}

// object reads an option that is one JSON object; nil if it is not set.
func (b *builder) object(option string, value any) map[string]any {
	if value == nil || value == "" {
		return nil
	}
	text, ok := value.(string)
	if !ok {
		b.reject(option, value, "is not text; write the whole JSON object as one string: "+option+`='{"org.example.key":"value"}'`)
		return nil
	}
	if problem := jsonProblem(text); problem != "" {
		b.reject(option, text, problem)
		return nil
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber() // numbers stay as they were written
	repeated := []string{}
	content, _ := readJSON(decoder, &repeated).(map[string]any)
	for _, key := range repeated {
		b.reject(option, text, "has the key "+quote(key)+" twice; write it once")
	}
	return content
}

// readJSON reads the next value of valid JSON and notes the keys that an object repeats.
func readJSON(decoder *json.Decoder, repeated *[]string) any {
	token, _ := decoder.Token()
	delim, ok := token.(json.Delim)
	if !ok {
		return token
	}
	if delim == '[' {
		list := []any{}
		for decoder.More() {
			list = append(list, readJSON(decoder, repeated))
		}
		_, _ = decoder.Token() // ]
		return list
	}
	object := map[string]any{}
	for decoder.More() {
		token, _ = decoder.Token()
		key, _ := token.(string)
		if _, ok := object[key]; ok {
			*repeated = append(*repeated, key)
		}
		object[key] = readJSON(decoder, repeated)
	}
	_, _ = decoder.Token() // }
	return object
}

// reject notes that an option's value is wrong. The text says why, and what to write instead.
func (b *builder) reject(option string, value any, text string) {
	written, ok := value.(string)
	if !ok {
		if encoded, err := json.Marshal(value); err == nil {
			written = string(encoded)
		}
	}
	b.problem(option + "=" + quote(written) + ": " + text)
}

func (b *builder) problem(line string) {
	b.problems = append(b.problems, line)
}

// quote puts the value between single quotes: Traefik's log escapes double ones.
func quote(value string) string { return "'" + escape(value) + "'" }

// escape returns the text on one line.
func escape(text string) string {
	const most = 200 // bytes; a whole document would hide what is said of it
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	quoted := strconv.Quote(text)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

var (
	// hostPattern is a DNS name or IPv4 address of a Matrix server name (appendices, server name).
	hostPattern = regexp.MustCompile(`^[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*\.?$`)
	// urlHostPattern also takes the underscore, which names inside Docker networks have.
	urlHostPattern = regexp.MustCompile(`^[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*\.?$`)
	// lastNumberPattern finds hosts that a WHATWG URL parser reads as an IPv4 address.
	lastNumberPattern = regexp.MustCompile(`(^|\.)([0-9]+|0[xX][0-9A-Fa-f]*)\.?$`)
	// uriPattern is a scheme and the characters of RFC 3986.
	uriPattern = regexp.MustCompile(`^[A-Za-z][0-9A-Za-z+.-]*:([0-9A-Za-z._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$`)
	// segmentPattern is what stands unescaped in a URL's path segment (RFC 3986, pchar).
	segmentPattern = regexp.MustCompile(`^[0-9A-Za-z._~!$&'()*+,;=:@-]+$`)
	// localpartPattern takes historical user IDs too (appendices, user identifiers).
	localpartPattern = regexp.MustCompile(`^[!-9;-~]+$`)
	// namespacedPattern is the common namespaced identifier grammar with at least one dot (appendices).
	namespacedPattern = regexp.MustCompile(`^[a-z][0-9a-z_-]*(\.[0-9a-z_-]+)+$`)
)

func (b *builder) checkServer(value string, withoutPort bool) {
	host, port, hasPort := splitPort(value)
	instead := "server=" + suggestServer(value)
	problem := ""
	switch {
	case strings.Contains(value, "://"):
		problem = "is a URL, but other servers want only host and port; write " + instead
	case strings.ContainsAny(value, `/\?#`):
		problem = "has a path, but other servers want only host and port; write " + instead
	case strings.ContainsAny(value, " \t\r\n"):
		problem = "has a space; write " + instead
	case host == "":
		problem = "has no host; write " + instead
	default:
		problem = serverHostProblem(host)
	}
	switch {
	case problem != "":
	case !hasPort && !withoutPort:
		problem = "has no port, so other servers would try 8448; write " + instead + ", or add serverWithoutPort=true if an SRV record holds the port"
	case hasPort && withoutPort:
		problem = "has a port, which serverWithoutPort=true rules out; write server=" + host + ", or remove serverWithoutPort"
	case hasPort && !validPort(port):
		problem = "has the port " + quote(port) + ", which is not a number from 1 to 65535; write " + instead
	}
	if problem != "" {
		b.reject("server", value, problem)
	}
}

// splitPort splits after the last colon that is not inside an IPv6 address's brackets.
func splitPort(value string) (host, port string, hasPort bool) {
	colon := strings.LastIndex(value, ":")
	if colon < 0 || colon < strings.LastIndex(value, "]") {
		return value, "", false
	}
	return value[:colon], value[colon+1:], true
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func serverHostProblem(host string) string {
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		addr, err := netip.ParseAddr(host[1 : len(host)-1])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return "has brackets around something that is not an IPv6 address; write server=[2001:db8::1]:443, or a name without brackets: server=matrix.example.com:443"
		}
		return ""
	}
	if strings.Contains(host, ":") {
		return "has several colons; write an IPv6 address in brackets, as in server=[2001:db8::1]:443, or a name and one port: server=matrix.example.com:443"
	}
	if len(host) > 255 {
		return "is longer than 255 characters; write a name such as server=matrix.example.com:443"
	}
	if !hostPattern.MatchString(host) {
		return "has characters that a server name can't have (only letters, digits, dots and hyphens; other alphabets in their xn-- form); write server=matrix.example.com:443"
	}
	return ""
}

// suggestServer repairs what can be repaired for certain, and gives an example otherwise.
func suggestServer(value string) string {
	if _, after, ok := strings.Cut(value, "://"); ok {
		value = after
	}
	if i := strings.IndexAny(value, `/\?#`); i >= 0 {
		value = value[:i]
	}
	host, port, _ := splitPort(strings.TrimSpace(value))
	if host == "" || serverHostProblem(host) != "" {
		host = "matrix.example.com"
	}
	if !validPort(port) {
		port = "443"
	}
	return host + ":" + port
}

// parseURL reads an absolute http(s) URL. The problem says what to write instead of the value.
func parseURL(option, value, example string) (*url.URL, string) {
	instead := option + "=" + example
	if strings.ContainsAny(value, " \t\r\n") {
		return nil, "has a space; write it without, as in " + instead
	}
	scheme, _, ok := strings.Cut(value, "://")
	if !ok {
		if host, port, hasPort := splitPort(value); urlHostPattern.MatchString(host) && (!hasPort || validPort(port)) {
			instead = option + "=https://" + value
		}
		return nil, "does not begin with https://; write " + instead
	}
	if scheme = strings.ToLower(scheme); scheme != "https" && scheme != "http" {
		return nil, "is neither an https:// nor an http:// URL; write " + instead
	}
	parsed, err := url.Parse(value)
	if err != nil || !uriPattern.MatchString(value) {
		return nil, "is not a URL (other alphabets and special characters are written as xn-- in names and as %XX in paths); write one like " + instead
	}
	host := parsed.Hostname()
	if host == "" {
		return nil, "has no host; write " + instead
	}
	if _, ok := serialiseHost(host); !ok {
		return nil, "has the host " + quote(host) + ", which is neither a name nor an IP address; write " + instead
	}
	if port := parsed.Port(); port != "" && !validPort(port) {
		return nil, "has the port " + quote(port) + ", which is not a number from 1 to 65535; write " + instead
	}
	return parsed, ""
}

// baseURL returns the URL as a WHATWG URL parser serialises it, which is what Continuwuity sends.
func (b *builder) baseURL(option, value string) string {
	const example = "https://matrix.example.com"
	parsed, problem := parseURL(option, value, example)
	if problem != "" {
		b.reject(option, value, problem)
		return value
	}
	path := ""
	if _, after, ok := strings.Cut(value[strings.Index(value, "://")+len("://"):], "/"); ok {
		path = after
	}
	switch {
	case parsed.User != nil:
		problem = "has a user name, which everyone could read; write it without, as in " + option + "=" + example
	case strings.Contains(value, "?"):
		problem = "has a query (?…), but paths are appended to it; write it without, as in " + option + "=" + example
	case strings.Contains(value, "#"):
		problem = "has a fragment (#…), but paths are appended to it; write it without, as in " + option + "=" + example
	case strings.ContainsAny(path, "[]"):
		problem = "has brackets in its path; write them as %5B and %5D"
	case hasDotSegment(path):
		problem = "has . or .. in its path; write the path that is meant"
	}
	if problem != "" {
		b.reject(option, value, problem)
		return value
	}
	host, _ := serialiseHost(parsed.Hostname())
	if port, err := strconv.Atoi(parsed.Port()); err == nil {
		if (parsed.Scheme != "https" || port != 443) && (parsed.Scheme != "http" || port != 80) {
			host += ":" + strconv.Itoa(port)
		}
	}
	return parsed.Scheme + "://" + host + "/" + path
}

// serialiseHost writes a URL's host as the WHATWG URL standard does (4.3 host writing, host serialising).
func serialiseHost(host string) (string, bool) {
	if strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" {
			return "", false
		}
		if addr.Is4In6() { // in hexadecimal, where netip writes 192.0.2.1
			bytes := addr.As16()
			return fmt.Sprintf("[::ffff:%x:%x]", int(bytes[12])<<8|int(bytes[13]), int(bytes[14])<<8|int(bytes[15])), true
		}
		return "[" + addr.String() + "]", true
	}
	if lastNumberPattern.MatchString(host) {
		addr, err := netip.ParseAddr(host)
		return host, err == nil && addr.Is4()
	}
	return strings.ToLower(host), urlHostPattern.MatchString(host)
}

func hasDotSegment(path string) bool {
	for _, segment := range strings.Split(strings.ReplaceAll(strings.ToLower(path), "%2e", "."), "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

func (b *builder) checkLivekit(value string) {
	if value == "" {
		b.problem("livekit='': has an empty entry; write URLs separated by single commas, as in livekit=https://livekit.example.com,https://livekit.example.org")
		return
	}
	if _, problem := parseURL("livekit", value, "https://livekit.example.com"); problem != "" {
		b.reject("livekit", value, problem)
	}
}

func (b *builder) checkNeedsClient(option string, value any) {
	if value != nil && value != "" {
		b.reject(option, value, "is part of the client document, which needs client; add client=https://matrix.example.com")
	}
}

func (b *builder) checkExtra(extra map[string]any, writtenBy map[string]string) {
	for _, key := range sortedKeys(extra) {
		problem := ""
		switch {
		case writtenBy[key] != "":
			problem = ", which the option " + writtenBy[key] + " writes; remove it here, or that option"
		case key == "m.server":
			problem = ", which belongs in the server document; write the option server=matrix.example.com:443 instead"
		case key == keyHomeserver:
			problem = "; write the option client=https://matrix.example.com instead"
		case !strings.Contains(strings.Trim(key, "."), "."):
			problem = ", which has no namespace; write it with one, as in io.element.e2ee or org.example.key"
		}
		if problem != "" {
			b.problem("clientExtra: has the key " + quote(key) + problem)
		}
	}
	if value, ok := extra[keyIdentityServer]; ok && writtenBy[keyIdentityServer] == "" {
		object, _ := value.(map[string]any)
		if base, _ := object["base_url"].(string); base == "" {
			b.problem("clientExtra: has '" + keyIdentityServer + "' without a base_url, on which logins fail; remove it, or write the option identityServer=https://identity.example.com")
		}
	}
	b.checkSynonyms(extra, writtenBy, keyFociStable, keyFoci)
	b.checkSynonyms(extra, writtenBy, keyTiles, keyTilesUnstable)
}

// checkSynonyms finds the stable and the unstable name of one thing side by side.
func (b *builder) checkSynonyms(extra map[string]any, writtenBy map[string]string, stable, unstable string) {
	if _, ok := extra[stable]; !ok {
		return
	}
	if writer := writtenBy[unstable]; writer != "" {
		b.problem("clientExtra: has '" + stable + "', and the option " + writer + " writes the same thing as '" + unstable + "'; keep one of the two")
	} else if _, ok := extra[unstable]; ok {
		b.problem("clientExtra: has '" + stable + "' and '" + unstable + "', two names of one thing; keep one of the two")
	}
}

func (b *builder) checkSupportPage(value string) {
	problem := ""
	if address, ok := cutPrefixFold(value, "mailto:"); ok {
		address, _, _ = strings.Cut(address, "?")
		if !uriPattern.MatchString(value) || !validEmail(address) {
			problem = "is not a mailto: URL; write supportPage=mailto:admin@example.com, or supportEmail=admin@example.com"
		}
	} else {
		_, problem = parseURL("supportPage", value, "https://example.com/support")
	}
	if problem != "" {
		b.reject("supportPage", value, problem)
	}
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// checkContact checks what is set; the names are those of the options.
func (b *builder) checkContact(role, email, mxid, pgpKey string, contact Contact) {
	if value := contact.Role; value != "" && value != roleAdmin && value != roleSecurity &&
		(!namespacedPattern.MatchString(value) || strings.HasPrefix(value, "m.") || len(value) > 255) {
		b.reject(role, value, "is not a role; write m.role.admin, m.role.security, or one in a namespace of your own, as in org.example.moderator")
	}
	if value := contact.Email; value != "" && !validEmail(value) {
		b.reject(email, value, "is not an email address; write one like admin@example.com")
	}
	if value := contact.Mxid; value != "" && !validMxid(value) {
		b.reject(mxid, value, "is not a Matrix ID; write one like @admin:example.com")
	}
	if value := contact.PgpKey; value != "" {
		problem := ""
		if scheme, _, _ := strings.Cut(value, ":"); strings.EqualFold(scheme, "https") || strings.EqualFold(scheme, "http") {
			_, problem = parseURL(pgpKey, value, "https://example.com/key.asc")
		} else if !uriPattern.MatchString(value) {
			problem = "is not a URI; write where the key is, " + pgpKey + "=https://example.com/key.asc, or its fingerprint without spaces, " + pgpKey + "=openpgp4fpr:0123456789ABCDEF0123456789ABCDEF01234567"
		}
		if problem != "" {
			b.reject(pgpKey, value, problem)
		}
	}
}

func validEmail(value string) bool {
	address, err := mail.ParseAddress(value)
	return err == nil && address.Address == value
}

func validMxid(value string) bool {
	localpart, server, ok := strings.Cut(value, ":")
	if !ok || len(value) > 255 || !strings.HasPrefix(localpart, "@") || !localpartPattern.MatchString(localpart[1:]) {
		return false
	}
	host, port, hasPort := splitPort(server)
	return host != "" && serverHostProblem(host) == "" && (!hasPort || validPort(port))
}

func (b *builder) checkPublicKey(value string) {
	standard, errStandard := base64.RawStdEncoding.Strict().DecodeString(value)
	urlSafe, errURLSafe := base64.RawURLEncoding.Strict().DecodeString(value)
	switch {
	case strings.HasSuffix(value, "="):
		b.reject("policyServerPublicKey", value, "has padding; write it without the = at its end")
	case strings.ContainsAny(value, " \t\r\n"):
		b.reject("policyServerPublicKey", value, "has a space or a line break; write it without")
	case errStandard != nil && errURLSafe != nil:
		b.reject("policyServerPublicKey", value, "is not base64; write the 43 characters that the policy server prints as its ed25519 public key")
	case len(standard) != 32 && len(urlSafe) != 32:
		b.reject("policyServerPublicKey", value, "is not 32 bytes long, as an ed25519 public key is; write the 43 characters that the policy server prints")
	}
}

// ownOptions are the documents that are not to be given as documents.<name>.
var ownOptions = map[string]string{
	"client":        "client and clientExtra",
	"server":        "server",
	"support":       "supportPage, supportEmail and supportMxid",
	"policy_server": "policyServerPublicKey",
}

func (b *builder) checkDocumentName(name string) {
	option := "documents." + name
	if options := ownOptions[strings.ToLower(name)]; options != "" {
		b.problem(option + ": this document has options of its own; write " + options + " instead")
	} else if name == "." || name == ".." || !segmentPattern.MatchString(name) {
		b.problem("documents: " + quote(name) + " can't be the last part of a URL; write a name of letters, digits, - and _, as in documents.mautrix")
	}
}

func (b *builder) checkMaxAge(maxAge int) {
	if maxAge < 0 || maxAge > maxCacheMaxAge {
		b.reject("cacheMaxAge", maxAge, fmt.Sprintf("is not a number of seconds from 0 to %d (48 hours, the most that other servers keep an answer); write cacheMaxAge=3600", maxCacheMaxAge))
	}
}

// jsonProblem tells why a text is not one JSON object.
func jsonProblem(text string) string {
	var raw json.RawMessage
	const example = `write one JSON object, as in {"org.example.key":"value"}`
	if !utf8.ValidString(text) {
		return "is not UTF-8; " + example
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return "is not JSON (" + err.Error() + "); " + example
	}
	if !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
		return "is JSON, but not an object; " + example
	}
	return ""
}

// unknown names the options that do not exist, and the nearest ones that do.
func (b *builder) unknown(config *Config) {
	contact := reflect.TypeOf(Contact{})
	if len(config.Unknown) > 0 {
		options := optionNames(reflect.TypeOf(*config))
		for _, name := range optionNames(contact) {
			options = append(options, "supportContacts[n]."+name)
		}
		b.unknownBelow("", "", config.Unknown, options)
	}
	for i, c := range config.SupportContacts {
		if len(c.Unknown) > 0 {
			b.unknownBelow(fmt.Sprintf("supportContacts[%d].", i), "", c.Unknown, optionNames(contact))
		}
	}
}

// unknownBelow goes down to the values, because labels are written down to there.
func (b *builder) unknownBelow(parent, path string, unknown map[string]any, options []string) {
	for _, key := range sortedKeys(unknown) {
		b.unknownOption(parent, path+key, unknown[key], options)
	}
}

func (b *builder) unknownOption(parent, path string, value any, options []string) {
	switch v := value.(type) {
	case map[string]any:
		b.unknownBelow(parent, path+".", v, options)
	case []any:
		for i, item := range v {
			b.unknownOption(parent, fmt.Sprintf("%s[%d]", path, i), item, options)
		}
	default:
		text := "there is no such option; "
		if nearest := nearestOption(path, options); nearest != "" {
			text += "did you mean " + parent + nearest + "?"
		} else {
			text += "the options are " + parent + strings.Join(options, ", "+parent)
		}
		b.reject(parent+escape(path), v, text)
	}
}

// optionNames reads the names from the fields.
func optionNames(config reflect.Type) []string {
	names := []string{}
	for i := 0; i < config.NumField(); i++ {
		field := config.Field(i)
		if field.Tag.Get("mapstructure") != "" {
			continue
		}
		name := strings.ToLower(field.Name[:1]) + field.Name[1:]
		switch name {
		case "supportContacts":
			continue // its fields are
		case "documents":
			name += ".<name>"
		}
		names = append(names, name)
	}
	return names
}

// nearestOption returns the option that differs least from key, or "" if none comes near.
func nearestOption(key string, options []string) string {
	nearest, least := "", 0
	for _, option := range options {
		written, meant := key, option
		if name, ok := strings.CutSuffix(option, ".<name>"); ok { // whatever follows is free
			written, _, _ = strings.Cut(key, ".")
			meant = name
		}
		written, meant = simplify(written), simplify(meant)
		distance := editDistance(written, meant)
		near := 2*distance <= len(written) || 2*distance <= len(meant)
		if near && (nearest == "" || distance < least) {
			nearest, least = option, distance
		}
	}
	return nearest
}

var separators = regexp.MustCompile(`\[[0-9n]*\]|[._-]`)

func simplify(option string) string {
	return strings.ToLower(separators.ReplaceAllString(option, ""))
}

// editDistance is the Levenshtein distance, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			if row[j-1]+1 < cost {
				cost = row[j-1] + 1
			}
			if row[j]+1 < cost {
				cost = row[j] + 1
			}
			row[j] = cost
		}
	}
	return row[len(b)]
}

package detect_test
import ("testing";"strings";"fmt";"time";"sallyport/internal/detect")
func TestPath(t *testing.T){ s:=detect.New()
 for _,u:=range []string{"token=","password=$","a@","@","%40","%40a/","::1:","+1 ","(1) ","1 ","1.2.3.4.","AB12 ","eyJ","-----BEGIN PRIVATE KEY-----","-----BEGIN ","aaaaaaaaaaaaaaaa/","0a","{\"a\":","password: \"","a:b@","token: aaa","sk-","1-1-","x://u:","password ","é","DE89 3704 0044 "}{
  text:=[]byte(strings.Repeat(u,(1<<20)/len(u)))
  at:=time.Now(); n:=len(s.ScanText(nil,text,0)); d:=time.Since(at)
  fmt.Printf("%-30q %8.1f MB/s %d\n",u,1/d.Seconds(),n)
 }}

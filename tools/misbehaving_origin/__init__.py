"""An HTTP/1.1 origin whose behaviour, right or wrong, is part of the URL.  Standard library only.

    /plain/NAME                      well-behaved: 200, 206, 304, 412, 416, a strong ETag, keep-alive
    /b/BEHAVIOUR,BEHAVIOUR.../NAME   the same blob, with these behaviours, applied as they are ordered

    BEHAVIOUR is name[=ARGUMENT][@WHEN], its ARGUMENT percent-encoded where it holds `,` `/` `@` or `?`;
    WHEN picks requests for that very path by number: @3 the first three, @4- from the fourth on, @2-3 those,
              @2+20 the second and every twentieth after it

    NAME is  random-SIZE-SEED        made up as it is asked for, so SIZE may be 8T; contents.py knows it too
             index-N[-SIZE]/         an nginx-like listing of f000000 ..., each of SIZE random bytes (64K)
             anything else           a file or a directory of DIR

    /token/LIMIT                     bearer tokens, for `bearer`
    GET  /control/stats              what happened, as JSON: see ledger.py
    GET  /control/open               only how many requests are under way
    GET  /control/wait?path=P&requests=N&open=N&connections=N&timeout=S
                                     P's stats (everybody's without P), once P has seen at least so many
                                     requests, has at most so many under way, and at most so many connections
                                     are open in all; 504 if not within S seconds
    POST /control/swap/NAME[?size=S] a new version of NAME under all paths; its size stays unless it is given
    POST /control/release            end every stall and delay that is on; those answers then go on
    POST /control/reset              forget all counts, versions, tokens and signatures; and release

Try it:  tools/origin --port 8080 &  curl -sv -r 0-9 http://127.0.0.1:8080/b/total=*,status=503@1/random-1T-x

Modules, each using only those before it: contents (blobs), answers (what is right), ledger (what happened),
table and behaviours (what is wrong), server (sockets), main (the command).
"""

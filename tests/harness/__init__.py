"""What every suite shares: the server under test, its subprocess, plain HTTP."""

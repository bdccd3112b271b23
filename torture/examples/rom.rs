use reduce::{case::*,image::*};
fn main(){
 let c=Case{pieces:vec![],start:State::default(),memory:vec![0;REGION_SIZE]};
 let im=Image::new(Setting{runs:Where::Machine,tells:Tells::Ends,avx:false,mxcsr_mask:!0},&[c]).unwrap();
 std::fs::write("/tmp/x.rom",reduce::rom::firmware(&im).unwrap()).unwrap();
}
